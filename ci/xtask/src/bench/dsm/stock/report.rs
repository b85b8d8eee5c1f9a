//! The boots as tables for people.

use std::fmt;

use super::{Boot, Boots, HotPage};
use crate::bench::table::Table;

/// Symbols of a page that people are shown.
const SHOWN: usize = 16;

impl fmt::Display for Boots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "boot of a stock guest (kernel {}, {} hosts)\n", self.kernel, self.lab)?;
        let mut table = Table::new(&["hosts", "boot s", "faults", "bytes sent", "messages"]);
        for boot in &self.boots {
            let remote: u64 =
                boot.faults.iter().filter(|faults| faults.kind != "local").map(|faults| faults.count).sum();
            let sent = [remote, boot.bytes_between_hosts, boot.messages].map(|number| number.to_string());
            table.row([boot.hosts.to_string(), format!("{:.1}", boot.boot_s)].into_iter().chain(sent));
        }
        write!(f, "{table}")?;
        self.boots.iter().filter(|boot| boot.hosts > 1).try_for_each(|boot| over(f, boot))
    }
}

/// What travelled in one boot.
fn over(f: &mut fmt::Formatter<'_>, boot: &Boot) -> fmt::Result {
    writeln!(f, "\nover {} hosts", boot.hosts)?;
    let mut table = Table::new(&["class", "faults", "p50 us", "p99 us", "pages", "pages of zeros", "bytes"]);
    for faults in &boot.faults {
        let arrived = boot.arrivals.iter().find(|arrived| arrived.kind == faults.kind);
        let came = arrived.map_or([0; 3], |arrived| [arrived.pages, arrived.zero_pages, arrived.bytes]);
        let cells = [faults.count, faults.p50_us, faults.p99_us].into_iter().chain(came);
        table.row(std::iter::once(faults.kind.clone()).chain(cells.map(|number| number.to_string())));
    }
    let alone = |arrived: &&crate::tessera::ArrivalStats| {
        boot.faults.iter().all(|faults| faults.kind != arrived.kind)
    };
    for arrived in boot.arrivals.iter().filter(alone) {
        let came = [arrived.pages, arrived.zero_pages, arrived.bytes].map(|number| number.to_string());
        table
            .row([arrived.kind.clone(), String::new(), String::new(), String::new()].into_iter().chain(came));
    }
    writeln!(f, "{table}")?;
    writeln!(f, "the hottest pages")?;
    for HotPage { frame, reads, writes, name } in &boot.hottest {
        let shown = name.symbols.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(" ");
        let more = if name.symbols.len() > SHOWN { " ..." } else { "" };
        writeln!(f, "{frame:>8x}  {reads:>6} read  {writes:>6} written  {}", name.part)?;
        if !name.symbols.is_empty() {
            writeln!(f, "          {shown}{more}")?;
        }
    }
    Ok(())
}
