//! Writes initramfs images: the `newc` cpio format that the kernel unpacks at boot
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{ensure, Context, Result};

const MODE_DIR: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_LINK: u32 = 0o120_000;
const MODE_CHAR: u32 = 0o020_000;

/// An archive that grows in memory. Parent folders are added by themselves.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    dirs: BTreeSet<String>,
}

impl Archive {
    /// Adds an empty folder.
    pub fn dir(&mut self, path: &str) {
        self.parents(path);
        if self.dirs.insert(path.to_owned()) {
            self.entry(path, MODE_DIR | 0o755, (0, 0), &[]);
        }
    }

    /// Adds a file with this content and these permissions.
    ///
    /// # Errors
    /// When the content does not fit into the format's 32-bit size.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        ensure!(u32::try_from(content.len()).is_ok(), "{path} is too big for an initramfs");
        self.parents(path);
        self.entry(path, MODE_FILE | permissions, (0, 0), content);
        Ok(())
    }

    /// Adds a file of this machine.
    ///
    /// # Errors
    /// When it cannot be read or is too big.
    pub fn copy(&mut self, path: &str, permissions: u32, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, permissions, &content)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, MODE_LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn char_device(&mut self, path: &str, permissions: u32, number: (u32, u32)) {
        self.parents(path);
        self.entry(path, MODE_CHAR | permissions, number, &[]);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        let padded = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(padded, 0);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let dirs: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        for dir in dirs.into_iter().filter(|dir| !dir.is_empty()) {
            if self.dirs.insert(dir.to_owned()) {
                self.entry(dir, MODE_DIR | 0o755, (0, 0), &[]);
            }
        }
    }

    /// The header is the magic number and 13 fields of eight hexadecimal digits; name and content each start
    /// on a multiple of four bytes.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & MODE_DIR == MODE_DIR { 2 } else { 1 };
        let name = path.trim_start_matches('/');
        let name_size = name.len() as u32 + 1;
        let fields = [
            self.entries, // inode: no two alike, or they would be hard links
            mode,
            0, // owner
            0, // group
            links,
            0, // time: none, so that equal input gives equal images
            content.len() as u32,
            0, // device of the file itself
            0,
            device.0,
            device.1,
            name_size,
            0, // checksum, unused in this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.file("/bin/deep/tool", 0o755, b"12345").unwrap();
        archive.link("/init", "bin/deep/tool");
        archive.file("/bin/empty", 0o644, b"").unwrap();
        archive.finish()
    }

    #[test]
    fn headers_start_on_multiples_of_four_and_parents_come_first() {
        let bytes = sample();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..114], b"bin\0");
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| *window == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 6, "bin, bin/deep, tool, init, empty, trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
    }

    #[test]
    fn the_cpio_program_lists_the_archive() {
        if !crate::shell::has_program("cpio") {
            eprintln!("no cpio here: the layout is checked by the other test");
            return;
        }
        let mut cpio =
            Command::new("cpio").arg("-t").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let listed = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(listed, "bin\nbin/deep\nbin/deep/tool\ninit\nbin/empty\n");
    }
}
