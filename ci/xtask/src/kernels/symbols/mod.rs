//! Which symbols of a kernel lie where.

mod table;

use std::ops::Range;

use anyhow::{Context, Result};

use self::table::Entry;

/// The symbols of a kernel, by address.
pub struct Symbols {
    entries: Vec<Entry>,
}

impl Symbols {
    /// Of a kernel that is not compressed.
    ///
    /// # Errors
    /// When it has no table of symbols that is understood.
    pub fn read(kernel: &[u8]) -> Result<Self> {
        let mut entries = table::read(kernel).context("cannot read the kernel's symbols")?;
        entries.sort_by_key(|entry| entry.address);
        Ok(Self { entries })
    }

    /// The address of a symbol.
    ///
    /// # Errors
    /// When the kernel has none of that name.
    pub fn address(&self, name: &str) -> Result<u64> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        Ok(entry.with_context(|| format!("the kernel has no symbol {name}"))?.address)
    }

    /// The names of what lies in these addresses, in order: what begins before them and reaches into them, and what begins in
    /// them. Marks of the linker, which stand for no room, are left out, and second names of one thing.
    pub fn within(&self, addresses: Range<u64>) -> Vec<&str> {
        let first = self.entries.partition_point(|entry| entry.address <= addresses.start);
        let end = self.entries.partition_point(|entry| entry.address < addresses.end);
        let reaches = self.entries[..first].last().map(|before| before.address);
        let from =
            reaches.map_or(first, |address| self.entries.partition_point(|entry| entry.address < address));
        let mut names: Vec<&str> = Vec::new();
        for run in self.entries[from..end.max(from)].chunk_by(|one, other| one.address == other.address) {
            names.extend(run.iter().map(|entry| entry.name.as_str()).find(|name| !is_mark(name)));
        }
        names
    }
}

/// Whether a name only says where a section begins or ends, or was made up by the build.
fn is_mark(name: &str) -> bool {
    let bound = name.starts_with("__start_") || name.starts_with("__stop_") || name.starts_with("__pfx_");
    bound || name.starts_with("__") && (name.ends_with("_start") || name.ends_with("_end"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::kernels::{Kernel, Series};

    /// A table with these.
    pub fn symbols(list: &[(u64, &str)]) -> Symbols {
        let entry = |&(address, name): &(u64, &str)| Entry { address, kind: 'D', name: name.to_owned() };
        Symbols { entries: list.iter().map(entry).collect() }
    }

    #[test]
    fn a_page_has_what_reaches_into_it_and_what_begins_in_it() {
        let symbols = symbols(&[(0x1000, "big"), (0x3800, "small"), (0x3900, "next"), (0x4000, "other")]);
        assert_eq!(symbols.within(0x3000..0x4000), ["big", "small", "next"]);
        assert_eq!(symbols.within(0x2000..0x3000), ["big"]);
        assert_eq!(symbols.within(0x4000..0x5000), ["other"]);
        assert!(symbols.within(0..0x1000).is_empty());
        assert_eq!(symbols.address("next").unwrap(), 0x3900);
        assert!(symbols.address("none").is_err());
    }

    #[test]
    fn a_stock_kernel_says_where_its_parts_are() {
        for kernel in [Series::Bookworm, Series::Backports].into_iter().filter_map(Kernel::cached) {
            let symbols = Symbols::read(&std::fs::read(kernel.unpacked().unwrap()).unwrap()).unwrap();
            assert!(symbols.entries.len() > 50_000, "{}: {} symbols", kernel.release, symbols.entries.len());
            assert_eq!(symbols.address("_text").unwrap(), 0xffff_ffff_8100_0000, "{}", kernel.release);
            let jiffies = symbols.address("jiffies").unwrap();
            let page = symbols.within(jiffies & !0xfff..(jiffies | 0xfff) + 1);
            assert!(page.iter().any(|name| name.starts_with("jiffies")), "{}: {page:?}", kernel.release);
            let runqueues = symbols.address("runqueues").unwrap();
            assert!(runqueues < 1 << 32, "{}: a place in the per-CPU area", kernel.release);
        }
    }

    #[test]
    fn marks_and_second_names_are_left_out() {
        let symbols = symbols(&[
            (0x1000, "__data_start"),
            (0x1000, "jiffies_64"),
            (0x1000, "jiffies"),
            (0x1800, "__x_end"),
            (0x1900, "initrd_start"),
        ]);
        assert_eq!(symbols.within(0x1000..0x2000), ["jiffies_64", "initrd_start"]);
    }
}
