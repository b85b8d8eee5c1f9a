//! Which system this is.

use std::fs;

/// The Debian release that the lab is made of: its kernels, its QEMU.
pub const CODENAME: &str = "bookworm";

/// The suite with newer versions for that release.
pub fn backports() -> String {
    format!("{CODENAME}-backports")
}

/// Whether this machine runs that Debian release.
pub fn is_expected() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    field(&text, "ID") == Some("debian") && field(&text, "VERSION_CODENAME") == Some(CODENAME)
}

/// The name of this system for messages.
pub fn pretty_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    field(&text, "PRETTY_NAME").unwrap_or("unknown").to_owned()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(field(text, "ID"), Some("debian"));
        assert_eq!(field(text, "PRETTY_NAME"), Some("Debian GNU/Linux 12"));
        assert_eq!(field(text, "VERSION_CODENAME"), None);
    }
}
