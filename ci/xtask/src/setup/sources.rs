//! The backports suite among apt's sources: added, if it is not there, next to the source that the system
//! already has, with the same address and key.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::release;

const FOLDER: &str = "/etc/apt/sources.list.d";
const OURS: &str = "/etc/apt/sources.list.d/tessera-backports.sources";

/// Where a suite comes from.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    signed_by: Option<String>,
}

/// Whether apt has the backports suite as a source.
pub fn has_backports() -> bool {
    let wanted = release::backports();
    all().iter().any(|source| source.suites.contains(&wanted))
}

/// Where the release itself comes from.
///
/// # Errors
/// When no source of it is found.
pub fn release_uri() -> Result<String> {
    let source =
        all().into_iter().find(|source| source.suites.iter().any(|suite| suite == release::CODENAME));
    let source =
        source.with_context(|| format!("no source of the suite {} among apt's", release::CODENAME))?;
    Ok(source.uri)
}

/// Adds the backports suite.
///
/// # Errors
/// When no source of the release itself is found or the file cannot be written.
pub fn add_backports() -> Result<PathBuf> {
    let sources = all();
    let base = sources.iter().find(|source| source.suites.iter().any(|suite| suite == release::CODENAME));
    let base = base.with_context(|| {
        format!(
            "no source of the suite {} in {FOLDER} or /etc/apt/sources.list to derive backports from",
            release::CODENAME
        )
    })?;
    fs::write(OURS, stanza(base)).with_context(|| format!("cannot write {OURS}"))?;
    Ok(PathBuf::from(OURS))
}

fn stanza(base: &Source) -> String {
    let mut text =
        format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n", base.uri, release::backports());
    if let Some(key) = &base.signed_by {
        text.push_str(&format!("Signed-By: {key}\n"));
    }
    text
}

fn all() -> Vec<Source> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir(FOLDER) {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    files.iter().flat_map(|file| parse(file, &fs::read_to_string(file).unwrap_or_default())).collect()
}

fn parse(file: &Path, text: &str) -> Vec<Source> {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("sources") => text.split("\n\n").filter_map(parse_stanza).collect(),
        Some("list") => text.lines().filter_map(parse_line).collect(),
        _ => Vec::new(),
    }
}

/// One paragraph of the deb822 format (man sources.list).
fn parse_stanza(text: &str) -> Option<Source> {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let field = |name: &str| {
        let (_, value) = lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    };
    if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
        return None;
    }
    field("Types")?.split_whitespace().find(|kind| *kind == "deb")?;
    Some(Source {
        uri: field("URIs")?.split_whitespace().next()?.to_owned(),
        suites: field("Suites")?.split_whitespace().map(str::to_owned).collect(),
        // A key written out over several lines starts on the line after the name: then it is not a path.
        signed_by: field("Signed-By").filter(|value| value.starts_with('/')).map(str::to_owned),
    })
}

/// One line of the classic format: `deb [signed-by=... other=...] URI SUITE COMPONENT...`.
fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    Some(Source {
        uri: words.next()?.to_owned(),
        suites: vec![words.next()?.to_owned()],
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "# made by hand\nTypes: deb\n# a comment\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/k.gpg\n\nTypes: deb\nURIs: http://mirror.invalid/security\nSuites: bookworm-security\n";

    #[test]
    fn both_formats_are_understood() {
        let found = parse(Path::new("debian.sources"), DEB822);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(found[1].signed_by, None);
        let classic = "# deb http://off.invalid/ x main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/debian bookworm main\ndeb http://mirror.invalid/debian bookworm-updates main\n";
        let found = parse(Path::new("sources.list"), classic);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].signed_by.as_deref(), Some("/k.gpg"));
        assert_eq!(found[1].suites, ["bookworm-updates"]);
    }

    #[test]
    fn disabled_sources_do_not_count() {
        assert!(parse(Path::new("x.sources"), &format!("Enabled: no\n{}", &DEB822[15..150])).is_empty());
        assert!(parse(Path::new("x.sources.disabled"), DEB822).is_empty());
        assert!(parse(Path::new("x.sources"), "Types: deb-src\nURIs: http://m.invalid\nSuites: bookworm\n")
            .is_empty());
    }

    #[test]
    fn backports_take_address_and_key_of_the_release() {
        let base = &parse(Path::new("debian.sources"), DEB822)[0];
        let text = stanza(base);
        let made = parse_stanza(&text).unwrap();
        assert_eq!(made.uri, base.uri);
        assert_eq!(made.suites, [release::backports()]);
        assert_eq!(made.signed_by, base.signed_by);
    }
}
