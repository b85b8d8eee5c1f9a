//! One result line: `TESSERA-RESULT {json}`, built in a fixed buffer.

use core::fmt::Write;

/// Bytes that a line may have; what does not fit is cut and the line then says `"cut":true`.
pub const LINE_BYTES: usize = 1800;

/// A JSON object under construction. Strings given to it come from this program or are escaped.
pub struct Line {
    bytes: [u8; LINE_BYTES],
    used: usize,
    cut: bool,
    first: bool,
}

impl Line {
    /// Starts the line for a program.
    pub fn new(program: &str) -> Self {
        let mut line = Self { bytes: [0; LINE_BYTES], used: 0, cut: false, first: true };
        line.push("TESSERA-RESULT {");
        line.text("program", program);
        line
    }

    /// Adds a string member.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.push("\"");
        for character in value.chars() {
            match character {
                '"' => self.push("\\\""),
                '\\' => self.push("\\\\"),
                c if (c as u32) < 0x20 => self.push(" "),
                c => {
                    let mut room = [0; 4];
                    self.push(c.encode_utf8(&mut room));
                }
            }
        }
        self.push("\"");
        self
    }

    /// Adds a number member.
    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key);
        let _ = write!(self, "{value}");
        self
    }

    /// Adds a number with three decimals, given in thousandths.
    pub fn thousandths(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key);
        let _ = write!(self, "{}.{:03}", value / 1000, value % 1000);
        self
    }

    /// Adds a member whose value is JSON already.
    pub fn raw(&mut self, key: &str, value: core::fmt::Arguments<'_>) -> &mut Self {
        self.key(key);
        let _ = self.write_fmt(value);
        self
    }

    /// Ends the object with `"ok"` and gives the line, newline included.
    pub fn end(&mut self, ok: bool) -> &str {
        let tail = match (ok, self.cut) {
            (true, false) => ",\"ok\":true}\n",
            (false, false) => ",\"ok\":false}\n",
            (true, true) => "\"cut\":true,\"ok\":true}\n",
            (false, true) => "\"cut\":true,\"ok\":false}\n",
        };
        if self.cut {
            // Back to the last whole member.
            while self.used > 0 && self.bytes[self.used - 1] != b',' {
                self.used -= 1;
            }
        }
        let end = self.used + tail.len();
        self.bytes[self.used..end].copy_from_slice(tail.as_bytes());
        core::str::from_utf8(&self.bytes[..end]).unwrap_or("TESSERA-RESULT {\"ok\":false}\n")
    }

    fn key(&mut self, key: &str) {
        if !core::mem::take(&mut self.first) {
            self.push(",");
        }
        self.push("\"");
        self.push(key);
        self.push("\":");
    }

    /// Appends, unless that would leave no room for the longest end.
    fn push(&mut self, text: &str) {
        let end = self.used + text.len();
        if self.cut || end > LINE_BYTES - 32 {
            self.cut = true;
            return;
        }
        self.bytes[self.used..end].copy_from_slice(text.as_bytes());
        self.used = end;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.push(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object() {
        let mut line = Line::new("mp");
        line.number("rounds", 3)
            .text("why", "a \"b\"\n\\")
            .thousandths("seconds", 1204)
            .raw("list", format_args!("[1,2]"));
        assert_eq!(
            line.end(true),
            "TESSERA-RESULT {\"program\":\"mp\",\"rounds\":3,\"why\":\"a \\\"b\\\" \\\\\",\"seconds\":1.204,\"list\":[1,2],\"ok\":true}\n"
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_at_a_member_and_says_so() {
        let mut line = Line::new("x");
        for _ in 0..200 {
            line.number("a_key_of_some_length", 1_234_567);
        }
        let text = line.end(false);
        assert!(text.len() <= LINE_BYTES);
        assert!(text.ends_with(":1234567,\"cut\":true,\"ok\":false}\n"), "{text}");
    }
}
