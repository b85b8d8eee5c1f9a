//! The virtio console: a line that is written there must be seen where the guest's host shows it.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use super::Finding;
use crate::json::Object;
use crate::orders::Order;
use crate::trouble::Trouble;

/// Runs the program. Parameters: `lines` (100), `dev` (hvc0), `word` that the lines begin with.
///
/// # Errors
/// When there is no such console.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["lines", "dev", "word"])?;
    let (lines, device) = (order.number("lines", 100, 1)?, order.text("dev").unwrap_or("hvc0"));
    let (path, word) = (format!("/dev/{device}"), order.text("word").unwrap_or("TESSERA-HVC"));
    let start = Instant::now();
    let mut console =
        OpenOptions::new().write(true).open(&path).map_err(Trouble::os(format!("opening {path}")))?;
    for line in 0..lines {
        writeln!(console, "{word} {line}").map_err(Trouble::os(format!("writing {path}")))?;
    }
    let mut figures = Object::default();
    figures.add("lines", lines);
    Ok(Finding { figures, seconds: start.elapsed().as_secs_f64(), ok: true })
}
