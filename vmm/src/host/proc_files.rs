//! Small files of `/proc` and `/sys`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes that are read of such a file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Memory of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Memory {
    /// What new programs can have without swapping (MemAvailable).
    pub free_bytes: u64,
    /// All of it (MemTotal).
    pub total_bytes: u64,
}

/// The file's text, or nothing if it cannot be read.
pub(super) fn text(path: &Path) -> String {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => text,
        Err(_) => String::new(),
    }
}

/// The file's text as one line of bounded length, or nothing if it cannot be read.
pub(super) fn line(path: &Path) -> String {
    text(path).trim().chars().filter(|c| !c.is_control()).take(255).collect()
}

/// What `/proc/meminfo` says; zeros where it says nothing.
pub(super) fn memory(root: &Path) -> Memory {
    let text = text(&root.join("proc/meminfo"));
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    Memory { free_bytes: field("MemAvailable"), total_bytes: field("MemTotal") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes_and_nonsense_is_nothing() {
        let root = tempfile::tempdir().expect("tempdir");
        assert_eq!(memory(root.path()), Memory::default());
        std::fs::create_dir(root.path().join("proc")).expect("mkdir");
        let write = |text: &str| std::fs::write(root.path().join("proc/meminfo"), text).expect("write");
        write("MemTotal:       2048 kB\nMemFree:   1 kB\nMemAvailable:   1024 kB\n");
        assert_eq!(memory(root.path()), Memory { free_bytes: 1 << 20, total_bytes: 2 << 20 });
        write("MemTotal: lots\nMemAvailable: 18446744073709551615 kB\n");
        assert_eq!(memory(root.path()), Memory { free_bytes: u64::MAX, total_bytes: 0 });
    }
}
