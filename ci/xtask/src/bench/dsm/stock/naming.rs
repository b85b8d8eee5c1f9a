//! What the pages of a stock guest are: by the symbols of its kernel, and by what it says about the others.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::kernels::symbols::Symbols;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Where the kernel's text and data are mapped (Documentation/arch/x86/x86_64/mm.rst).
const IMAGE_MAP: u64 = 0xffff_ffff_8000_0000;
/// Where the upper half of the addresses begins with four levels of page tables.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;
/// Of an entry of a page table: the address, and whether it is there and is a page itself.
const ENTRY_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRY_PRESENT: u64 = 1;
const ENTRY_PAGE: u64 = 1 << 7;
/// Bytes that the kernel keeps for each page frame.
const FRAME_RECORD: u64 = 64;
/// What an entry of a middle table maps.
const MIDDLE: u64 = 2 << 20;
/// Symbols of a page that are named; a page of text has dozens.
const NAMED_MAX: usize = 48;

/// What a kernel tells of itself while it runs.
pub trait Kernel {
    /// So many words of its memory from this address on.
    ///
    /// # Errors
    /// When it does not tell.
    fn words(&mut self, address: u64, count: usize) -> Result<Vec<u64>>;

    /// What it uses page frames for (`/proc/kpageflags`).
    ///
    /// # Errors
    /// When it does not tell.
    fn flags(&mut self, frames: &[u64]) -> Result<Vec<u64>>;
}

/// What a page is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// In a few words.
    pub part: String,
    /// The kernel's symbols that lie in it; the first ones, if there are many.
    pub symbols: Vec<String>,
}

/// Where a running kernel has its parts.
pub struct Map<'a> {
    symbols: &'a Symbols,
    /// Physical address of the image less [`IMAGE_MAP`]'s.
    image_base: u64,
    /// Where all memory is mapped.
    direct: u64,
    /// Where each CPU's area is.
    per_cpu: Vec<u64>,
    /// Bytes of such an area.
    per_cpu_bytes: u64,
    /// Physical addresses of the records of page frames, [`MIDDLE`] bytes each.
    records: Vec<Option<u64>>,
}

impl<'a> Map<'a> {
    /// Asks a kernel with these symbols, this many CPUs and so much memory.
    ///
    /// # Errors
    /// When it does not tell, or lacks a symbol.
    pub fn ask(symbols: &'a Symbols, kernel: &mut dyn Kernel, cpus: usize, memory: u64) -> Result<Self> {
        let mut word = |name: &str| -> Result<u64> {
            let words = kernel.words(symbols.address(name)?, 1)?;
            words.first().copied().with_context(|| format!("the guest did not tell {name}"))
        };
        let (image_base, direct) = (word("phys_base")?, word("page_offset_base")?);
        let (records_at, unit) = (word("vmemmap_base")?, word("pcpu_unit_size")?);
        let per_cpu = kernel.words(symbols.address("__per_cpu_offset")?, cpus)?;
        let per_cpu_bytes = u64::from(unit as u32);
        let mut map = Self { symbols, image_base, direct, per_cpu, per_cpu_bytes, records: Vec::new() };
        let middles = (memory / PAGE * FRAME_RECORD).div_ceil(MIDDLE) as usize;
        map.records = map.walk(kernel, records_at, middles)?;
        Ok(map)
    }

    /// The physical addresses behind so many consecutive 2 MiB of the kernel's addresses; none where there is a table of small pages.
    fn walk(&self, kernel: &mut dyn Kernel, address: u64, count: usize) -> Result<Vec<Option<u64>>> {
        // With five levels, one table more.
        let upper = if self.direct < UPPER_HALF { &[48, 39, 30][..] } else { &[39, 30][..] };
        let mut table = self.symbols.address("init_top_pgt")?;
        for shift in upper {
            let entry = *kernel.words(table + 8 * (address >> shift & 511), 1)?.first().unwrap_or(&0);
            if entry & ENTRY_PRESENT == 0 {
                return Ok(Vec::new());
            }
            table = self.direct + (entry & ENTRY_ADDRESS);
        }
        let first = (address >> 21 & 511) as usize;
        let entries = kernel.words(table + 8 * first as u64, count.min(512 - first))?;
        let page = |entry: u64| entry & (ENTRY_PRESENT | ENTRY_PAGE) == ENTRY_PRESENT | ENTRY_PAGE;
        Ok(entries
            .into_iter()
            .map(|entry| page(entry).then_some(entry & ENTRY_ADDRESS & !(MIDDLE - 1)))
            .collect())
    }

    /// What these page frames are.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn names(&self, kernel: &mut dyn Kernel, frames: &[u64]) -> Result<Vec<Name>> {
        let flags = kernel.flags(frames)?;
        let use_of = |number: usize| flags.get(number).map_or("unknown", |&flags| use_of(flags));
        let name = |(number, &frame): (usize, &u64)| {
            let known = self.image(frame).or_else(|| self.cpu(frame)).or_else(|| self.record(frame));
            known.unwrap_or_else(|| Name { part: use_of(number).to_owned(), symbols: Vec::new() })
        };
        Ok(frames.iter().enumerate().map(name).collect())
    }

    /// A page of the kernel's image.
    fn image(&self, frame: u64) -> Option<Name> {
        let address = IMAGE_MAP.checked_add(frame.checked_mul(PAGE)?.checked_sub(self.image_base)?)?;
        let bound = |name| self.symbols.address(name).ok();
        if address < bound("_text")? || address >= bound("_end")? {
            return None;
        }
        // (Marks of the linker; a kernel without one of them has no such part.)
        let parts = [
            ("__bss_stop", "kernel"),
            ("__bss_start", "kernel bss"),
            ("_sdata", "kernel data"),
            ("_etext", "kernel constants"),
        ];
        let below =
            parts.iter().find(|(mark, _)| bound(mark).is_some_and(|mark| address >= mark & !(PAGE - 1)));
        let part = below.map_or("kernel text", |(_, part)| part);
        Some(Name { part: part.to_owned(), symbols: self.listed(address) })
    }

    /// A page of a CPU's own area.
    fn cpu(&self, frame: u64) -> Option<Name> {
        let address = self.direct.checked_add(frame.checked_mul(PAGE)?)?;
        let inside = |start: &u64| address.checked_sub(*start).filter(|&inside| inside < self.per_cpu_bytes);
        let (cpu, inside) =
            self.per_cpu.iter().enumerate().find_map(|(cpu, start)| Some((cpu, inside(start)?)))?;
        let fixed = self.symbols.address("__per_cpu_end").is_ok_and(|end| inside < end);
        let symbols = if fixed { self.listed(inside) } else { Vec::new() };
        let kind = if fixed { "variables" } else { "dynamic variables" };
        Some(Name { part: format!("{kind} of CPU {cpu}"), symbols })
    }

    /// A page of the records of page frames.
    fn record(&self, frame: u64) -> Option<Name> {
        let address = frame.checked_mul(PAGE)?;
        let (number, start) = self.records.iter().enumerate().find_map(|(number, start)| {
            (*start)
                .filter(|start| (*start..start + MIDDLE).contains(&address))
                .map(|start| (number as u64, start))
        })?;
        let first = (number * MIDDLE + (address - start)) / FRAME_RECORD;
        let last = first + PAGE / FRAME_RECORD - 1;
        Some(Name { part: format!("records of page frames {first:#x} to {last:#x}"), symbols: Vec::new() })
    }

    fn listed(&self, address: u64) -> Vec<String> {
        let names = self.symbols.within(address..address + PAGE);
        names.into_iter().take(NAMED_MAX).map(str::to_owned).collect()
    }
}

/// What a page frame is used for, by its flags (Documentation/admin-guide/mm/pagemap.rst).
fn use_of(flags: u64) -> &'static str {
    const USES: [(u32, &str); 6] = [
        (10, "free"),
        (7, "kernel objects (slab)"),
        (26, "page table"),
        (12, "a process's own memory"),
        (11, "mapped file"),
        (5, "page cache"),
    ];
    let known = USES.iter().find(|(bit, _)| flags >> bit & 1 == 1);
    known.map_or("kernel, not marked (stacks, buffers, early memory)", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kernels::symbols::tests::symbols;

    /// A kernel as a table of words.
    struct Told {
        words: BTreeMap<u64, u64>,
        flags: u64,
    }

    impl Kernel for Told {
        fn words(&mut self, address: u64, count: usize) -> Result<Vec<u64>> {
            Ok((0..count as u64)
                .map(|word| self.words.get(&(address + 8 * word)).copied().unwrap_or(0))
                .collect())
        }

        fn flags(&mut self, frames: &[u64]) -> Result<Vec<u64>> {
            Ok(vec![self.flags; frames.len()])
        }
    }

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const DIRECT: u64 = 0xffff_8880_0000_0000;
    const RECORDS: u64 = 0xffff_ea00_0000_0000;

    fn table() -> Symbols {
        symbols(&[
            (0x1000, "runqueues"),
            (0x3000, "__per_cpu_end"),
            (TEXT, "_text"),
            (TEXT + 0x100, "main"),
            (TEXT + 0x2000, "_etext"),
            (TEXT + 0x3000, "_sdata"),
            (TEXT + 0x3008, "phys_base"),
            (TEXT + 0x3010, "page_offset_base"),
            (TEXT + 0x3018, "vmemmap_base"),
            (TEXT + 0x3020, "pcpu_unit_size"),
            (TEXT + 0x3100, "__per_cpu_offset"),
            (TEXT + 0x4000, "init_top_pgt"),
            (TEXT + 0x5000, "__bss_start"),
            (TEXT + 0x5040, "jiffies_lock"),
            (TEXT + 0x6000, "__bss_stop"),
            (TEXT + 0x6000, "_end"),
        ])
    }

    fn told() -> Told {
        let words = [
            (TEXT + 0x3010, DIRECT),
            (TEXT + 0x3018, RECORDS),
            (TEXT + 0x3020, 0x8000),
            (TEXT + 0x3100, DIRECT + 0x700_0000),
            (TEXT + 0x3108, DIRECT + 0x701_0000),
            // Three tables down to the records' first 2 MiB.
            (TEXT + 0x4000 + 8 * (RECORDS >> 39 & 511), 0x20_0063),
            (DIRECT + 0x20_0000 + 8 * (RECORDS >> 30 & 511), 0x20_1063),
            (DIRECT + 0x20_1000 + 8 * (RECORDS >> 21 & 511), 0x60_00e3),
        ];
        Told { words: words.into(), flags: 1 << 7 }
    }

    #[test]
    fn every_page_has_a_name() {
        let (symbols, mut kernel) = (table(), told());
        let map = Map::ask(&symbols, &mut kernel, 2, 64 << 20).unwrap();
        let frames = [0x1000, 0x1003, 0x1005, 0x7011, 0x7004, 0x601, 0x9999];
        let names = map.names(&mut kernel, &frames).unwrap();
        let expected = [
            ("kernel text", vec!["_text"]),
            ("kernel data", vec!["_sdata"]),
            ("kernel bss", vec!["jiffies_lock"]),
            ("variables of CPU 1", vec!["runqueues"]),
            ("dynamic variables of CPU 0", vec![]),
            ("records of page frames 0x40 to 0x7f", vec![]),
            ("kernel objects (slab)", vec![]),
        ];
        for (name, (part, symbols)) in names.iter().zip(expected) {
            assert_eq!(name.part, part);
            assert!(symbols.iter().all(|symbol| name.symbols.iter().any(|own| own == symbol)), "{name:?}");
        }
    }

    #[test]
    fn a_frame_that_says_nothing_is_the_kernels() {
        assert!(use_of(0).starts_with("kernel, not marked"));
        assert_eq!(use_of(1 << 26), "page table");
    }
}
