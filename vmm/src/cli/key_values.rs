//! Options of the form `key=value,key=[value,value]`.

use std::str::FromStr;

use super::Failure;

/// The keys and values of one option, as they were given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValues {
    pairs: Vec<(String, String)>,
}

/// The keys and values of a known option: errors name it.
#[derive(Clone, Copy, Debug)]
pub struct OptionValues<'a> {
    option: &'a str,
    pairs: &'a [(String, String)],
}

impl FromStr for KeyValues {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in split_outside_brackets(text)? {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not key=value"))?;
            if pairs.iter().any(|(known, _)| known == key) {
                return Err(format!("{key:?} is given twice"));
            }
            pairs.push((key.into(), value.into()));
        }
        Ok(KeyValues { pairs })
    }
}

impl KeyValues {
    /// The values of `option`, which has these keys.
    ///
    /// # Errors
    /// When another key is there.
    pub fn expect<'a>(&'a self, option: &'a str, keys: &[&str]) -> Result<OptionValues<'a>, Failure> {
        match self.pairs.iter().find(|(key, _)| !keys.contains(&key.as_str())) {
            Some((key, _)) => {
                Err(Failure::new(format!("{option}: there is no {key:?}; the keys are {}", keys.join(", "))))
            }
            None => Ok(OptionValues { option, pairs: &self.pairs }),
        }
    }
}

impl OptionValues<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// The value of a key, if it is there.
    ///
    /// # Errors
    /// When it is not what `read` reads.
    pub fn one<T>(&self, key: &str, read: fn(&str) -> Result<T, &'static str>) -> Result<Option<T>, Failure> {
        self.text(key).map(|text| self.read(key, text, read)).transpose()
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// When it is missing, or not what `read` reads.
    pub fn required<T>(&self, key: &str, read: fn(&str) -> Result<T, &'static str>) -> Result<T, Failure> {
        let value = self.one(key, read)?;
        value.ok_or_else(|| Failure::new(format!("{}: {key}= is missing", self.option)))
    }

    /// The values of a key whose value is a list in brackets; none if it is not there.
    ///
    /// # Errors
    /// When one of them is not what `read` reads.
    pub fn list<T>(&self, key: &str, read: fn(&str) -> Result<T, &'static str>) -> Result<Vec<T>, Failure> {
        let Some(text) = self.text(key) else { return Ok(vec![]) };
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let Some(inner) = inner else {
            return Err(Failure::new(format!("{}: {key}={text} is not a list in brackets", self.option)));
        };
        inner.split(',').map(|item| self.read(key, item, read)).collect()
    }

    fn read<T>(
        &self,
        key: &str,
        text: &str,
        read: fn(&str) -> Result<T, &'static str>,
    ) -> Result<T, Failure> {
        read(text.trim()).map_err(|why| Failure::new(format!("{}: {key}={text}: {why}", self.option)))
    }
}

/// Any text but an empty one.
pub fn text(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("this is empty"),
        text => Ok(text.into()),
    }
}

/// `on` or `off`.
pub fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("this is neither on nor off"),
    }
}

/// A count.
pub fn count(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "this is no number")
}

/// A size in bytes, with K, M, G or T for powers of 1024.
pub fn size(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "this is no size, such as 512M or 2G";
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = &text[digits.len()..];
    let shift = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(WRONG),
    };
    let number: u64 = digits.parse().map_err(|_| WRONG)?;
    number.checked_mul(1 << shift).ok_or("this is too much")
}

fn split_outside_brackets(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.checked_sub(1).ok_or("a bracket is closed that was not opened")?,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err("a bracket is not closed".into());
    }
    parts.push(&text[start..]);
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_and_values_are_told_apart() {
        let values: KeyValues = "size=2G,per-host=[1G, 1G]".parse().expect("valid");
        let values = values.expect("--memory", &["size", "per-host"]).expect("keys");
        assert_eq!(values.one("size", size).expect("size"), Some(2 << 30));
        assert_eq!(values.list("per-host", size).expect("list"), [1 << 30, 1 << 30]);
        assert!(values.list("size", size).is_err());
        assert_eq!(values.one("absent", size).expect("absent"), None);
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("1k", 1024), ("2MiB", 2 << 20), ("3GB", 3 << 30), ("1T", 1 << 40)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "1X", "G1", "99999999999999999999", "17179869184G", "1Gi G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _either = (text.parse::<KeyValues>(), size(&text), count(&text));
        }
    }
}
