//! userfaultfd: the host kernel tells us when the guest touches a page that it may not.
//!
//! A thin, typed layer over the ioctls of `linux/userfaultfd.h` (kernel documentation:
//! `admin-guide/mm/userfaultfd.rst`). The descriptor is always kernel-capable (KVM touches guest memory from inside
//! the kernel: with `UFFD_USER_MODE_ONLY` a vCPU's access to a missing page would fail instead of waiting) and
//! non-blocking (a blocking one reports an error to `poll`).
//!
//! Only memory given to [`Userfaultfd::register`] can be changed through it: that call is the unsafe one.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use linux_raw_sys::general as kernel;
use thiserror::Error;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iowr_nr};

use crate::ids::PAGE_BYTES;

/// The request numbers of `linux/userfaultfd.h`.
mod request {
    use super::{ioctl_io_nr, ioctl_ior_nr, ioctl_iowr_nr, kernel};
    ioctl_io_nr!(IOC_NEW, kernel::UFFDIO, 0x00);
    ioctl_iowr_nr!(API, kernel::UFFDIO, kernel::_UFFDIO_API, kernel::uffdio_api);
    ioctl_iowr_nr!(REGISTER, kernel::UFFDIO, kernel::_UFFDIO_REGISTER, kernel::uffdio_register);
    ioctl_ior_nr!(UNREGISTER, kernel::UFFDIO, kernel::_UFFDIO_UNREGISTER, kernel::uffdio_range);
    ioctl_ior_nr!(WAKE, kernel::UFFDIO, kernel::_UFFDIO_WAKE, kernel::uffdio_range);
    ioctl_iowr_nr!(COPY, kernel::UFFDIO, kernel::_UFFDIO_COPY, kernel::uffdio_copy);
    ioctl_iowr_nr!(ZEROPAGE, kernel::UFFDIO, kernel::_UFFDIO_ZEROPAGE, kernel::uffdio_zeropage);
    ioctl_iowr_nr!(WRITEPROTECT, kernel::UFFDIO, kernel::_UFFDIO_WRITEPROTECT, kernel::uffdio_writeprotect);
}

/// `UFFDIO_WRITEPROTECT_MODE_WP` and `_DONTWAKE`: enum constants in the header, absent from `linux-raw-sys`.
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

/// The features without which Tessera cannot track pages, with their names for the message.
const FEATURES: [(u64, &str); 3] = [
    (kernel::UFFD_FEATURE_PAGEFAULT_FLAG_WP as u64, "PAGEFAULT_FLAG_WP"),
    (kernel::UFFD_FEATURE_MISSING_SHMEM as u64, "MISSING_SHMEM"),
    (kernel::UFFD_FEATURE_WP_HUGETLBFS_SHMEM as u64, "WP_HUGETLBFS_SHMEM"),
];

/// How often an operation that reports `EAGAIN` is tried again before the error is believed.
const TRIES_MAX: u32 = 1000;

/// Bytes in one `struct uffd_msg`.
const MESSAGE_BYTES: usize = 32;
/// Most faults that one [`Userfaultfd::read_faults`] returns.
pub const FAULTS_PER_READ: usize = 32;

/// Why userfaultfd cannot be used, or which operation failed.
#[derive(Debug, Error)]
pub enum UffdError {
    /// No way to open a kernel-capable userfaultfd.
    #[error(
        "cannot open a userfaultfd that serves the kernel's own accesses ({source}): run as root, or give this \
         user read and write access to /dev/userfaultfd, or set /proc/sys/vm/unprivileged_userfaultfd to 1"
    )]
    Open {
        /// What the last way that was tried reported.
        source: io::Error,
    },
    /// The kernel lacks something.
    #[error(
        "this kernel's userfaultfd lacks {missing}: write-protection of shared memory needs Linux 5.19 or later \
         (6.1 or later is tested)"
    )]
    Features {
        /// The names of the missing features.
        missing: String,
    },
    /// The kernel refused an operation.
    #[error("userfaultfd {operation} of {length} bytes at {address:#x}: {source}")]
    Operation {
        /// The ioctl or system call.
        operation: &'static str,
        /// Host-virtual address.
        address: u64,
        /// Bytes.
        length: u64,
        /// Its answer.
        source: io::Error,
    },
}

/// What the touching thread wanted and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// A load or fetch found no page.
    MissingRead,
    /// A store found no page.
    MissingWrite,
    /// A store found a write-protected page.
    WriteProtected,
}

/// One touch of a page that is not there or is write-protected; the thread waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Host-virtual address of the page, in the registered mapping.
    pub hva: u64,
    /// What happened.
    pub kind: FaultKind,
}

/// Whether threads that wait for the page are woken by the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiters {
    /// Wake them.
    Wake,
    /// Leave them waiting.
    Leave,
}

/// What became of pages that were to be put into place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Placed {
    /// They are there now.
    New,
    /// There was one already (`EEXIST`): it was not changed and nobody who waits for it was woken.
    AlreadyThere {
        /// How many pages before it were put into place.
        before: u64,
    },
}

/// How often each ioctl was used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct UffdCounts {
    /// `UFFDIO_COPY`.
    pub copy: u64,
    /// `UFFDIO_ZEROPAGE`.
    pub zeropage: u64,
    /// `UFFDIO_WRITEPROTECT` to protect.
    pub protect: u64,
    /// `UFFDIO_WRITEPROTECT` to take the protection away.
    pub unprotect: u64,
    /// `UFFDIO_WAKE`.
    pub wake: u64,
    /// `UFFDIO_REGISTER`.
    pub register: u64,
    /// `UFFDIO_UNREGISTER`.
    pub unregister: u64,
}

impl UffdCounts {
    /// Adds another node's counts to these.
    pub fn merge(&mut self, other: &UffdCounts) {
        self.copy += other.copy;
        self.zeropage += other.zeropage;
        self.protect += other.protect;
        self.unprotect += other.unprotect;
        self.wake += other.wake;
        self.register += other.register;
        self.unregister += other.unregister;
    }
}

/// An open userfaultfd. Closing it (drop) releases every thread that waits in it: such a thread then finds plain
/// memory, in which absent pages read as zero.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
    counts: UffdCounts,
}

impl Userfaultfd {
    /// Opens a kernel-capable, non-blocking, close-on-exec userfaultfd with the features that Tessera needs.
    ///
    /// # Errors
    /// [`UffdError::Open`] without permission or kernel support, [`UffdError::Features`] on an old kernel.
    pub fn open() -> Result<Self, UffdError> {
        // A descriptor takes UFFDIO_API once: the first only asks what the kernel can do.
        let offered = api_handshake(&open_descriptor()?, 0)?;
        let missing: Vec<&str> =
            FEATURES.iter().filter(|(bit, _)| offered & bit == 0).map(|&(_, name)| name).collect();
        if !missing.is_empty() {
            return Err(UffdError::Features { missing: missing.join(", ") });
        }
        let fd = open_descriptor()?;
        api_handshake(&fd, FEATURES.iter().fold(0, |bits, (bit, _)| bits | bit))?;
        Ok(Userfaultfd { fd, counts: UffdCounts::default() })
    }

    /// How often each ioctl was used so far.
    pub fn counts(&self) -> UffdCounts {
        self.counts
    }

    /// Tracks `length` bytes at `hva`: touches of missing pages, and stores into write-protected ones, wait and are
    /// reported. Pages that are there stay as they are.
    ///
    /// # Safety
    /// The range must be a shared-memory mapping that the caller owns, of which no Rust reference exists, and that
    /// stays mapped as long as this userfaultfd or until [`Userfaultfd::unregister`].
    ///
    /// # Errors
    /// If the kernel refuses, for example because the process has too many mappings (`vm.max_map_count`).
    pub unsafe fn register(&mut self, hva: u64, length: u64) -> Result<(), UffdError> {
        self.counts.register += 1;
        let mut arg = kernel::uffdio_register {
            range: kernel::uffdio_range { start: hva, len: length },
            mode: u64::from(kernel::UFFDIO_REGISTER_MODE_MISSING | kernel::UFFDIO_REGISTER_MODE_WP),
            ioctls: 0,
        };
        retry("UFFDIO_REGISTER", hva, length, || {
            // SAFETY: `arg` is the structure that the request takes; the caller vouches for the range.
            unsafe { ioctl_with_mut_ref(&self.fd, request::REGISTER(), &mut arg) }
        })
    }

    /// Stops tracking a range, takes write protection off it and wakes who waits in it.
    ///
    /// # Errors
    /// If the kernel refuses, for example because the process has too many mappings (`vm.max_map_count`).
    pub fn unregister(&mut self, hva: u64, length: u64) -> Result<(), UffdError> {
        self.counts.unregister += 1;
        let arg = kernel::uffdio_range { start: hva, len: length };
        retry("UFFDIO_UNREGISTER", hva, length, || {
            // SAFETY: `arg` is the structure that the request takes; the kernel only drops its own tracking.
            unsafe { ioctl_with_ref(&self.fd, request::UNREGISTER(), &arg) }
        })
    }

    /// Puts pages with these bytes at `hva` and behind it, where there are none; write-protected if `access` says so.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that a page is there.
    pub fn copy(
        &mut self,
        hva: u64,
        pages: &[[u8; PAGE_BYTES]],
        access: Protection,
        waiters: Waiters,
    ) -> Result<Placed, UffdError> {
        self.counts.copy += 1;
        let mut mode = 0;
        if access == Protection::Protected {
            mode |= u64::from(kernel::UFFDIO_COPY_MODE_WP);
        }
        if waiters == Waiters::Leave {
            mode |= u64::from(kernel::UFFDIO_COPY_MODE_DONTWAKE);
        }
        let src = pages.as_ptr() as u64;
        place("UFFDIO_COPY", hva, std::mem::size_of_val(pages) as u64, |done, length| {
            let (dst, src) = (hva + done, src + done);
            let mut arg = kernel::uffdio_copy { dst, src, len: length, mode, copy: 0 };
            // SAFETY: from `src` on there are `length` bytes of `pages`, which lives through the call; the kernel writes
            // only to absent pages of registered ranges, for which the caller of `register` vouched.
            let result = unsafe { ioctl_with_mut_ref(&self.fd, request::COPY(), &mut arg) };
            (result, arg.copy)
        })
    }

    /// Puts pages of zeros that may be written into a range where there are none.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that a page is there.
    pub fn zeropage(&mut self, hva: u64, length: u64, waiters: Waiters) -> Result<Placed, UffdError> {
        self.counts.zeropage += 1;
        let mode = match waiters {
            Waiters::Wake => 0,
            Waiters::Leave => u64::from(kernel::UFFDIO_ZEROPAGE_MODE_DONTWAKE),
        };
        place("UFFDIO_ZEROPAGE", hva, length, |done, length| {
            let range = kernel::uffdio_range { start: hva + done, len: length };
            let mut arg = kernel::uffdio_zeropage { range, mode, zeropage: 0 };
            // SAFETY: as for `copy`.
            let result = unsafe { ioctl_with_mut_ref(&self.fd, request::ZEROPAGE(), &mut arg) };
            (result, arg.zeropage)
        })
    }

    /// Write-protects a range of the registered mapping, or takes the protection off and wakes who waits. When this
    /// returns, no CPU can store through a stale translation: KVM's own tables included (mmu notifier).
    ///
    /// # Errors
    /// If the kernel refuses, for example because the range is not registered.
    pub fn write_protect(&mut self, hva: u64, length: u64, protection: Protection) -> Result<(), UffdError> {
        let (operation, mode) = match protection {
            Protection::Protected => ("UFFDIO_WRITEPROTECT", WRITEPROTECT_MODE_WP),
            Protection::Writable => ("UFFDIO_WRITEPROTECT (off)", 0),
        };
        match protection {
            Protection::Protected => self.counts.protect += 1,
            Protection::Writable => self.counts.unprotect += 1,
        }
        let mut arg =
            kernel::uffdio_writeprotect { range: kernel::uffdio_range { start: hva, len: length }, mode };
        retry(operation, hva, length, || {
            // SAFETY: `arg` is the structure that the request takes; only registered ranges are changed.
            unsafe { ioctl_with_mut_ref(&self.fd, request::WRITEPROTECT(), &mut arg) }
        })
    }

    /// Wakes the threads that wait for a page in the range: they try their access again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn wake(&mut self, hva: u64, length: u64) -> Result<(), UffdError> {
        self.counts.wake += 1;
        let arg = kernel::uffdio_range { start: hva, len: length };
        retry("UFFDIO_WAKE", hva, length, || {
            // SAFETY: `arg` is the structure that the request takes; nothing but wait queues is touched.
            unsafe { ioctl_with_ref(&self.fd, request::WAKE(), &arg) }
        })
    }

    /// Takes the faults that wait to be read, at most [`FAULTS_PER_READ`]; empty if there are none.
    ///
    /// # Errors
    /// If the read fails.
    pub fn read_faults<'a>(&self, batch: &'a mut FaultBatch) -> Result<&'a [Fault], UffdError> {
        let mut raw = [0u8; MESSAGE_BYTES * FAULTS_PER_READ];
        let bytes = match rustix::io::read(&self.fd, &mut raw) {
            Ok(bytes) => bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(errno) => {
                let (address, length) = (0, raw.len() as u64);
                return Err(UffdError::Operation {
                    operation: "read",
                    address,
                    length,
                    source: errno.into(),
                });
            }
        };
        let mut found = 0;
        for message in raw[..bytes].chunks_exact(MESSAGE_BYTES) {
            if let Some(fault) = parse(message) {
                batch.0[found] = fault;
                found += 1;
            }
        }
        Ok(&batch.0[..found])
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a page may be stored to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Stores wait and are reported.
    Protected,
    /// Stores go through.
    Writable,
}

/// Room for the faults of one read.
#[derive(Debug)]
pub struct FaultBatch([Fault; FAULTS_PER_READ]);

impl Default for FaultBatch {
    fn default() -> Self {
        FaultBatch([Fault { hva: 0, kind: FaultKind::MissingRead }; FAULTS_PER_READ])
    }
}

/// A `struct uffd_msg`: the event in byte 0; for a page fault its flags at byte 8 and the address at byte 16.
fn parse(message: &[u8]) -> Option<Fault> {
    let word = |at: usize| message[at..at + 8].try_into().ok().map(u64::from_ne_bytes);
    if u32::from(message[0]) != kernel::UFFD_EVENT_PAGEFAULT {
        return None;
    }
    let (flags, address) = (word(8)?, word(16)?);
    let has = |flag: u32| flags & u64::from(flag) != 0;
    let kind = if has(kernel::UFFD_PAGEFAULT_FLAG_WP) {
        FaultKind::WriteProtected
    } else if has(kernel::UFFD_PAGEFAULT_FLAG_WRITE) {
        FaultKind::MissingWrite
    } else {
        FaultKind::MissingRead
    };
    Some(Fault { hva: address & !(PAGE_BYTES as u64 - 1), kind })
}

/// Opens the descriptor: through the device first, whose file permissions an administrator can set; then with the
/// system call, which wants `CAP_SYS_PTRACE` or `vm.unprivileged_userfaultfd`.
fn open_descriptor() -> Result<OwnedFd, UffdError> {
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/userfaultfd");
    if let Ok(device) = device {
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as libc::c_ulong;
        // SAFETY: the request takes open flags by value and gives a new descriptor or -1.
        let fd = unsafe { ioctl_with_val(&device, request::IOC_NEW(), flags) };
        if fd >= 0 {
            // SAFETY: a descriptor that the kernel has just given us and that nobody else has.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    let flags = rustix::mm::UserfaultfdFlags::CLOEXEC | rustix::mm::UserfaultfdFlags::NONBLOCK;
    // SAFETY: opening one has no effect on memory before a range is registered.
    unsafe { rustix::mm::userfaultfd(flags) }.map_err(|errno| UffdError::Open { source: errno.into() })
}

/// Asks for `features` and returns what the kernel offers.
fn api_handshake(fd: &OwnedFd, features: u64) -> Result<u64, UffdError> {
    let mut api = kernel::uffdio_api { api: u64::from(kernel::UFFD_API), features, ioctls: 0 };
    retry("UFFDIO_API", 0, 0, || {
        // SAFETY: `api` is the structure that the request takes.
        unsafe { ioctl_with_mut_ref(&fd.as_raw_fd(), request::API(), &mut api) }
    })?;
    Ok(api.features)
}

/// Runs an ioctl, again while the kernel asks for that.
fn retry(
    operation: &'static str,
    address: u64,
    length: u64,
    mut ioctl: impl FnMut() -> i32,
) -> Result<(), UffdError> {
    for tried in 1..=TRIES_MAX {
        if ioctl() >= 0 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        let again = matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
        if !again || tried == TRIES_MAX {
            return Err(UffdError::Operation { operation, address, length, source });
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Runs an ioctl that fills a range. It may stop on the way (`EAGAIN`), and then goes on from there. `ioctl` is given how many bytes
/// are done and how many are left, and gives the kernel's answer and how many bytes more are done (negative: none). That a page is
/// there already (`EEXIST`) is an answer, not an error.
fn place(
    operation: &'static str,
    address: u64,
    length: u64,
    mut ioctl: impl FnMut(u64, u64) -> (i32, i64),
) -> Result<Placed, UffdError> {
    let mut done = 0;
    let result = retry(operation, address, length, || {
        let (result, more) = ioctl(done, length - done);
        done += u64::try_from(more).unwrap_or(0).min(length - done);
        if done == length {
            0
        } else {
            result
        }
    });
    match result {
        Ok(()) => Ok(Placed::New),
        Err(UffdError::Operation { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
            Ok(Placed::AlreadyThere { before: done / PAGE_BYTES as u64 })
        }
        Err(error) => Err(error),
    }
}
