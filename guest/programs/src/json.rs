//! Just enough JSON to print results.

use std::fmt::{Display, Write as _};

/// A JSON object under construction; members keep their order.
#[derive(Clone, Debug, Default)]
pub struct Object {
    text: String,
}

impl Object {
    /// Adds a member whose value prints as JSON by itself: integers and booleans.
    pub fn add(&mut self, key: &str, value: impl Display) -> &mut Self {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        let _ = write!(self.text, "{}:{value}", quoted(key));
        self
    }

    /// Adds a string.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.add(key, quoted(value))
    }

    /// Adds a number; one that JSON cannot say becomes null.
    pub fn float(&mut self, key: &str, value: f64) -> &mut Self {
        self.add(key, float(value))
    }

    /// Adds a list of values that print as JSON.
    pub fn list<T: Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) -> &mut Self {
        let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        self.add(key, format_args!("[{}]", values.join(",")))
    }
}

impl Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{{{}}}", self.text)
    }
}

/// A number with six significant decimals, or null.
pub fn float(value: f64) -> String {
    if !value.is_finite() {
        "null".to_owned()
    } else if value == 0.0 || (1e-3..1e9).contains(&value.abs()) {
        format!("{value:.6}")
    } else {
        format!("{value:.6e}")
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_print_as_json() {
        let mut inner = Object::default();
        inner.add("node", 0);
        let mut object = Object::default();
        object
            .text("name", "a\"\\\n")
            .add("n", 3)
            .float("s", 0.25)
            .list("l", [1, 2])
            .list("o", [inner])
            .add("ok", true);
        assert_eq!(
            object.to_string(),
            r#"{"name":"a\"\\\u000a","n":3,"s":0.250000,"l":[1,2],"o":[{"node":0}],"ok":true}"#
        );
        assert_eq!(Object::default().to_string(), "{}");
    }

    #[test]
    fn numbers_stay_numbers() {
        assert_eq!(float(f64::NAN), "null");
        assert_eq!(float(1.5e-12), "1.500000e-12");
        assert_eq!(float(0.0), "0.000000");
    }
}
