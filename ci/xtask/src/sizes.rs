//! Memory sizes on the command line.

/// MiB in a text like `512M` or `2G`; plain digits are MiB. For clap.
///
/// # Errors
/// What is expected instead.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let size = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    size.filter(|mib| (1..=1 << 30).contains(mib))
        .ok_or_else(|| "a size like 512M or 2G is expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_mib() {
        assert_eq!(parse_mib("512"), Ok(512));
        assert_eq!(parse_mib("512M"), Ok(512));
        assert_eq!(parse_mib("2G"), Ok(2048));
        for bad in ["", "G", "0", "-1", "1T", "99999999999999999999G"] {
            assert!(parse_mib(bad).is_err(), "{bad}");
        }
    }
}
