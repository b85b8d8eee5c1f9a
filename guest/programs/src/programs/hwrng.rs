//! The machine's source of random numbers, as the kernel passes it on: bytes come, and they are not all alike.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use super::Finding;
use crate::json::Object;
use crate::orders::Order;
use crate::trouble::Trouble;

const SOURCE: &str = "/dev/hwrng";
const NAME: &str = "/sys/class/misc/hw_random/rng_current";

/// How many of the 256 values of a byte occur.
fn values(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    bytes.iter().for_each(|&byte| seen[usize::from(byte)] = true);
    seen.iter().filter(|&&seen| seen).count()
}

/// Runs the program. Parameters: `bytes` (4096).
///
/// # Errors
/// When there is no source.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["bytes"])?;
    let mut bytes = vec![0; order.number("bytes", 4096, 1024)?.min(1 << 24) as usize];
    let start = Instant::now();
    let mut source = File::open(SOURCE).map_err(Trouble::os(format!("opening {SOURCE}")))?;
    source.read_exact(&mut bytes).map_err(Trouble::os(format!("reading {SOURCE}")))?;
    let values = values(&bytes);
    let mut figures = Object::default();
    let name = std::fs::read_to_string(NAME).unwrap_or_default();
    figures.text("source", name.trim()).add("bytes", bytes.len()).add("values", values);
    // Of 1024 random bytes fewer than 200 values occur once in 10^30 times.
    Ok(Finding { figures, seconds: start.elapsed().as_secs_f64(), ok: values > 200 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted() {
        assert_eq!(values(&[0, 7, 7, 255]), 3);
        assert_eq!(values(&[]), 0);
    }
}
