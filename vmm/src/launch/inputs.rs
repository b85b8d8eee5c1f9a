//! Kernel and initramfs, looked at before any host is asked for anything.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::LaunchError;
use super::request::RunRequest;
use crate::control::orders::Image;

/// What kind of kernel a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelKind {
    /// Linux as distributions ship it.
    BzImage,
    /// Linux as `vmlinux`: an ELF file with Xen's PVH note.
    Vmlinux,
    /// Any other ELF file: a bare-metal payload.
    Payload,
}

impl KernelKind {
    /// Whether it wants the command line parameters that a Linux guest here needs.
    pub fn is_linux(self) -> bool {
        self != KernelKind::Payload
    }
}

/// What a guest boots.
#[derive(Debug)]
pub struct Inputs {
    /// The files, the kernel first.
    pub files: Vec<Input>,
    /// What kind of kernel it is.
    pub kind: KernelKind,
}

/// Opens what `request` names.
///
/// # Errors
/// When a file is missing, or is not what it should be.
pub fn open_all(request: &RunRequest) -> Result<Inputs, LaunchError> {
    let Some(kernel) = &request.kernel else {
        return Err(LaunchError::Options("no kernel is given: --kernel FILE".into()));
    };
    let kernel = Input::open(Image::Kernel, kernel)?;
    let kind = kernel.kernel_kind()?;
    let mut files = vec![kernel];
    if let Some(path) = &request.initramfs {
        files.push(Input::open(Image::Initramfs, path)?);
    }
    Ok(Inputs { files, kind })
}

/// A file that is to be sent to node 0.
#[derive(Debug)]
pub struct Input {
    /// What it is.
    pub image: Image,
    /// Its path, for messages.
    pub path: PathBuf,
    /// The file. Kept open: what is sent is what was looked at.
    pub file: File,
    /// Its size.
    pub bytes: u64,
}

impl Input {
    fn what(image: Image) -> &'static str {
        match image {
            Image::Kernel => "kernel",
            Image::Initramfs => "initramfs",
        }
    }

    /// Opens a file, and checks that it is one of a usable size.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(image: Image, path: &Path) -> Result<Input, LaunchError> {
        let what = Input::what(image);
        let file_error = |source| LaunchError::File { what, path: path.into(), source };
        let bad = |problem: String| LaunchError::Input { what, path: path.into(), problem };
        // Looked at before it is opened: opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(file_error)?.is_file() {
            return Err(bad("is not a regular file".into()));
        }
        let file = File::open(path).map_err(file_error)?;
        let bytes = file.metadata().map_err(file_error)?.len();
        match bytes {
            0 => Err(bad("is empty".into())),
            bytes if bytes > image.bytes_max() => {
                Err(bad(format!("has {bytes} bytes; the most is {}", image.bytes_max())))
            }
            bytes => Ok(Input { image, path: path.into(), file, bytes }),
        }
    }

    /// The bytes at `offset`, as many as `buffer` takes.
    ///
    /// # Errors
    /// When they cannot be read, or are no longer there.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), LaunchError> {
        let what = Input::what(self.image);
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|source| LaunchError::File { what, path: self.path.clone(), source })
    }

    /// What kind of kernel this is.
    ///
    /// # Errors
    /// When it is none.
    pub fn kernel_kind(&self) -> Result<KernelKind, LaunchError> {
        let mut head = vec![0; self.bytes.min(HEAD_BYTES) as usize];
        self.read_at(&mut head, 0)?;
        kind_of(&head).map_err(|problem| LaunchError::Input {
            what: Input::what(self.image),
            path: self.path.clone(),
            problem: problem.into(),
        })
    }
}

/// How much of a kernel is looked at: headers, and the notes that linkers put behind them.
const HEAD_BYTES: u64 = 1 << 20;
const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;

fn kind_of(head: &[u8]) -> Result<KernelKind, &'static str> {
    if head.starts_with(b"\x7fELF") {
        return elf_kind(head);
    }
    // Linux, Documentation/arch/x86/boot.rst: boot_flag at 0x1fe, header magic at 0x202, version at 0x206.
    if head.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && head.get(0x202..0x206) == Some(b"HdrS") {
        let version = head.get(0x206..0x208).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        return match version {
            0..0x20c => Err("is a Linux kernel from before 3.8: it cannot be entered in 64-bit mode"),
            _ => Ok(KernelKind::BzImage),
        };
    }
    Err("is no kernel: neither a bzImage nor an ELF file for x86-64")
}

fn elf_kind(head: &[u8]) -> Result<KernelKind, &'static str> {
    let half = |at: usize| head.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    // ELF-64 object file format: class, byte order, e_type, e_machine.
    match (head.get(4..6), half(16), half(18)) {
        _ if head.len() < ELF_HEADER_BYTES => Err("is an ELF file that is cut off"),
        (Some([2, 1]), Some(2 | 3), Some(62)) if has_pvh_note(head) => Ok(KernelKind::Vmlinux),
        (Some([2, 1]), Some(2 | 3), Some(62)) => Ok(KernelKind::Payload),
        _ => Err("is an ELF file, but no x86-64 executable"),
    }
}

/// Whether a program header points to notes among which one is named Xen, as far as `head` reaches.
fn has_pvh_note(head: &[u8]) -> bool {
    const PT_NOTE: u32 = 4;
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(head.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let count = head.get(56..58).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let first = long(32).and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
    (0..usize::from(count)).any(|i| {
        let Some(header) = first.checked_add(i * PROGRAM_HEADER_BYTES) else { return false };
        let (kind, offset, bytes) =
            (word(header), long(header.saturating_add(8)), long(header.saturating_add(32)));
        let (Some(PT_NOTE), Some(offset), Some(bytes)) = (kind, offset, bytes) else { return false };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(head.len());
        let end = start.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX)).min(head.len());
        head[start..end].windows(4).any(|name| name == b"Xen\0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn elf(class: u8, machine: u16) -> Vec<u8> {
        let mut head = vec![0u8; 64 + 56 + 16];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        head[16] = 2;
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32] = 64;
        head[56] = 1;
        head
    }

    fn bzimage(version: u16) -> Vec<u8> {
        let mut head = vec![0u8; 0x210];
        head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        head
    }

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(kind_of(&bzimage(0x20f)), Ok(KernelKind::BzImage));
        assert_eq!(kind_of(&elf(2, 62)), Ok(KernelKind::Payload));
        let mut vmlinux = elf(2, 62);
        vmlinux[64] = 4;
        vmlinux[64 + 8] = 120;
        vmlinux[64 + 32] = 16;
        vmlinux[124..128].copy_from_slice(b"Xen\0");
        assert_eq!(kind_of(&vmlinux), Ok(KernelKind::Vmlinux));
        assert!(KernelKind::Vmlinux.is_linux() && !KernelKind::Payload.is_linux());
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_the_reason() {
        let problem = |head: &[u8]| kind_of(head).expect_err("no kernel");
        assert!(problem(b"#!/bin/sh\n").contains("neither a bzImage nor an ELF"));
        assert!(problem(&elf(1, 3)).contains("no x86-64 executable"));
        assert!(problem(&elf(2, 183)).contains("no x86-64 executable"));
        assert!(problem(b"\x7fELF").contains("cut off"));
        assert!(problem(&bzimage(0x204)).contains("before 3.8"));
        assert!(problem(b"").contains("no kernel"));
    }

    #[test]
    fn files_that_cannot_be_used_are_refused() {
        let folder = tempfile::tempdir().expect("tempdir");
        let line = |image, path: &Path| Input::open(image, path).expect_err("unusable").to_string();
        assert!(line(Image::Kernel, &folder.path().join("none")).contains("No such file"));
        assert!(line(Image::Kernel, folder.path()).contains("not a regular file"));
        assert!(line(Image::Kernel, Path::new("/dev/zero")).contains("not a regular file"));
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").expect("write");
        assert!(line(Image::Initramfs, &empty).ends_with("empty is empty"));
        let huge = folder.path().join("huge");
        File::create(&huge).and_then(|file| file.set_len(1 << 40)).expect("sparse file");
        assert!(line(Image::Initramfs, &huge).contains("the most is"));
    }

    proptest! {
        #[test]
        fn no_header_panics(
            mut head in proptest::collection::vec(any::<u8>(), 0..600), elf in any::<bool>(),
        ) {
            if elf && head.len() > 20 {
                head[..6].copy_from_slice(b"\x7fELF\x02\x01");
                head[16..20].copy_from_slice(&[2, 0, 62, 0]);
            }
            let _either = kind_of(&head);
        }
    }
}
