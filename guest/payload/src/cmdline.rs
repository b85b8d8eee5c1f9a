//! The command line: words `key=value`, separated by spaces, values as lists separated by commas.

/// A parsed view of the command line. Keys that nobody asks for are ignored, so that kernel words
/// (`console=...`) do no harm; the last word with a key counts.
#[derive(Clone, Copy, Debug)]
pub struct Cmdline<'a> {
    text: &'a str,
}

/// A word whose value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue<'a> {
    /// The key whose value it is.
    pub key: &'a str,
    /// The value as given.
    pub value: &'a str,
}

impl<'a> Cmdline<'a> {
    /// Takes the text as it came from the boot loader.
    pub const fn new(text: &'a str) -> Self {
        Self { text }
    }

    /// The whole text.
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// The value of `key`, if given.
    pub fn word(&self, key: &str) -> Option<&'a str> {
        self.text
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .filter(|(k, _)| *k == key)
            .map(|(_, v)| v)
            .next_back()
    }

    /// The number under `key` (decimal, or hexadecimal after `0x`, with an optional k, m or g for powers of
    /// 1000), or `default` where the key is absent.
    ///
    /// # Errors
    /// [`BadValue`] where the value is no such number or does not fit.
    pub fn number(&self, key: &'a str, default: u64) -> Result<u64, BadValue<'a>> {
        match self.word(key) {
            None => Ok(default),
            Some(value) => parse_number(value).ok_or(BadValue { key, value }),
        }
    }

    /// The comma-separated numbers under `key`; an absent key gives none.
    ///
    /// # Errors
    /// [`BadValue`] where one is no number, or `into` is too short for all of them.
    pub fn numbers<'b>(&self, key: &'a str, into: &'b mut [u64]) -> Result<&'b [u64], BadValue<'a>> {
        let Some(value) = self.word(key) else { return Ok(&[]) };
        let mut count = 0;
        for part in value.split(',').filter(|part| !part.is_empty()) {
            let (Some(slot), Some(number)) = (into.get_mut(count), parse_number(part)) else {
                return Err(BadValue { key, value });
            };
            *slot = number;
            count += 1;
        }
        Ok(&into[..count])
    }
}

/// See [`Cmdline::number`].
pub fn parse_number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000),
        b'm' => (&text[..text.len() - 1], 1_000_000),
        b'g' => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_strangers_are_ignored() {
        let line = Cmdline::new("console=ttyS0 test=mp quiet rounds=10 rounds=2m");
        assert_eq!(line.word("test"), Some("mp"));
        assert_eq!(line.number("rounds", 7), Ok(2_000_000));
        assert_eq!(line.number("cpus", 7), Ok(7));
        assert_eq!(line.word("quiet"), None);
    }

    #[test]
    fn numbers_in_all_their_forms() {
        assert_eq!(parse_number("0x1f"), Some(31));
        assert_eq!(parse_number("3k"), Some(3000));
        assert_eq!(parse_number(""), None);
        assert_eq!(parse_number("k"), None);
        assert_eq!(parse_number("-1"), None);
        assert_eq!(parse_number("18446744073709551615k"), None);
    }

    #[test]
    fn lists_keep_their_order_and_refuse_what_does_not_fit() {
        let mut room = [0; 3];
        assert_eq!(Cmdline::new("apic=0,1,64").numbers("apic", &mut room), Ok(&[0, 1, 64][..]));
        assert_eq!(Cmdline::new("").numbers("apic", &mut room), Ok(&[][..]));
        assert!(Cmdline::new("apic=0,1,2,3").numbers("apic", &mut room).is_err());
        assert!(Cmdline::new("apic=0,x").numbers("apic", &mut room).is_err());
    }
}
