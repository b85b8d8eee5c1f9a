//! A disk, written and read by all CPUs, past the page cache: every word is checked, each block by another CPU than the
//! one that wrote it. What was written can be checked by another guest later.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::Finding;
use crate::cpus;
use crate::json::{float, Object};
use crate::memory::{Pages, PAGE_BYTES};
use crate::orders::Order;
use crate::random::{mix, Random};
use crate::trouble::Trouble;

/// How long the disk may take to appear.
const APPEARANCE_LIMIT: Duration = Duration::from_secs(20);
/// Single reads of a page, for their time.
const LONE_READS: usize = 64;

/// What to do with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Write it, and check it.
    Both,
    /// Check what another run wrote.
    Check,
}

/// The disk under test.
#[derive(Debug)]
struct Disk {
    file: File,
    path: PathBuf,
}

impl Disk {
    /// Waits until it is there.
    fn open(path: &Path) -> Result<Self, Trouble> {
        let deadline = Instant::now() + APPEARANCE_LIMIT;
        loop {
            let mut options = OpenOptions::new();
            match options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path) {
                Ok(file) => return Ok(Self { file, path: path.into() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(Trouble::Os { what: format!("opening {}", path.display()), error }),
            }
        }
    }

    /// One transfer of the first `bytes` bytes of `memory`, which must be all of it.
    fn transfer(&self, memory: &Pages, bytes: usize, offset: u64, write: Write) -> Result<(), Trouble> {
        assert!(bytes <= memory.len() * PAGE_BYTES);
        let (file, start) = (self.file.as_raw_fd(), memory.address() as *mut libc::c_void);
        // SAFETY: the mapping has that many bytes and lives through the call; its words are only used as atomics.
        let moved = unsafe {
            match write {
                Write::No => libc::pread(file, start, bytes, offset as libc::off_t),
                Write::Yes => libc::pwrite(file, start, bytes, offset as libc::off_t),
            }
        };
        let what = || format!("{bytes} bytes at {offset} of {}", self.path.display());
        match usize::try_from(moved) {
            Ok(count) if count == bytes => Ok(()),
            Ok(count) => Err(Trouble::Unfit(format!("only {count} of {}", what()))),
            Err(_) => Err(Trouble::last_os(what())),
        }
    }
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    No,
    Yes,
}

/// What all threads work on.
#[derive(Debug)]
struct Work {
    disk: Disk,
    seed: u64,
    blocks: u64,
    block_bytes: usize,
}

impl Work {
    fn word(&self, block: u64, index: usize) -> u64 {
        mix(self.seed ^ block << 20 ^ index as u64)
    }

    fn write(&self, memory: &Pages, block: u64) -> Result<(), Trouble> {
        for (index, word) in memory.words().iter().enumerate() {
            word.store(self.word(block, index), Ordering::Relaxed);
        }
        self.disk.transfer(memory, self.block_bytes, block * self.block_bytes as u64, Write::Yes)
    }

    /// Gives the number of wrong words.
    fn check(&self, memory: &Pages, block: u64) -> Result<u64, Trouble> {
        memory.words().iter().for_each(|word| word.store(!0, Ordering::Relaxed));
        self.disk.transfer(memory, self.block_bytes, block * self.block_bytes as u64, Write::No)?;
        let wrong = |(index, word): (usize, &std::sync::atomic::AtomicU64)| {
            u64::from(word.load(Ordering::Relaxed) != self.word(block, index))
        };
        Ok(memory.words().iter().enumerate().map(wrong).sum())
    }

    /// The mean time of single reads of a page, in microseconds.
    fn lone_read_us(&self, memory: &Pages, me: usize) -> Result<f64, Trouble> {
        let (mut random, pages) =
            (Random::new(me as u64), self.blocks * (self.block_bytes / PAGE_BYTES) as u64);
        let start = Instant::now();
        for _ in 0..LONE_READS {
            self.disk.transfer(memory, PAGE_BYTES, random.below(pages) * PAGE_BYTES as u64, Write::No)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / LONE_READS as f64)
    }

    /// One thread's part: its blocks, then another one's. Gives wrong words and the time of a single read.
    fn part(&self, mode: Mode, me: usize, of: usize, barrier: &Barrier) -> Result<(u64, f64), Trouble> {
        let memory = Pages::new(self.block_bytes / PAGE_BYTES)?;
        let blocks = |part: usize| (part as u64..self.blocks).step_by(of);
        let written = match mode {
            Mode::Both => blocks(me).try_for_each(|block| self.write(&memory, block)),
            Mode::Check => Ok(()),
        };
        let synced = self.disk.file.sync_all().map_err(Trouble::os("fsync"));
        // Nobody may be missing at the barrier, whatever went wrong.
        barrier.wait();
        written.and(synced)?;
        let wrong = blocks((me + 1) % of).map(|block| self.check(&memory, block)).sum::<Result<u64, _>>()?;
        barrier.wait();
        Ok((wrong, self.lone_read_us(&memory, me)?))
    }
}

fn mode(order: &Order) -> Result<Mode, Trouble> {
    match order.text("mode") {
        None | Some("both") => Ok(Mode::Both),
        Some("check") => Ok(Mode::Check),
        Some(other) => Err(Trouble::order(format!("mode={other}"), "is neither both nor check")),
    }
}

/// Runs the program. Parameters: `dev` (vda), `mb` (8), `kib` of a block (64), `seed` (1), `mode` (`both`: write and check;
/// `check`: check what an earlier run wrote), `threads`.
///
/// # Errors
/// Parameters that make no sense, no such disk, or one that fails.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["dev", "mb", "kib", "seed", "mode", "threads"])?;
    let mode = mode(order)?;
    let path = Path::new("/dev").join(order.text("dev").unwrap_or("vda"));
    let block_bytes = (order.number("kib", 64, 4)?.min(4096) as usize * 1024).next_multiple_of(PAGE_BYTES);
    let bytes = order.number("mb", 8, 1)?.min(1 << 20) << 20;
    let work = Work {
        disk: Disk::open(&path)?,
        seed: order.number("seed", 1, 0)?,
        blocks: bytes / block_bytes as u64,
        block_bytes,
    };
    let cpus = cpus::spread(order.number("threads", 0, 0)?.min(1024) as usize);
    let (count, barrier) = (cpus.len(), Barrier::new(cpus.len()));
    let start = Instant::now();
    let parts = cpus::on_each(&cpus, |me| work.part(mode, me, count, &barrier))?;
    let seconds = start.elapsed().as_secs_f64();
    let parts: Vec<(u64, f64)> = parts.into_iter().collect::<Result<_, _>>()?;
    let wrong: u64 = parts.iter().map(|(wrong, _)| wrong).sum();
    let mut figures = Object::default();
    figures
        .add("threads", count)
        .add("blocks", work.blocks)
        .add("kib", block_bytes / 1024)
        .add("wrong", wrong);
    figures.text("checksum", &format!("{:016x}", work.word(work.blocks, 0)));
    figures.list("read_us", parts.iter().map(|&(_, us)| float(us)));
    Ok(Finding { figures, seconds, ok: wrong == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_serves_as_a_disk_and_keeps_what_was_written() {
        let path = std::env::temp_dir().join(format!("tessera-disk-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let name = path.display();
        let run_with = |what: &str| run(&format!("disk:dev={name}:mb=1:threads=3{what}").parse().unwrap());
        match run_with(":seed=5") {
            // Some file systems cannot do without their cache.
            Err(Trouble::Os { error, .. }) if error.raw_os_error() == Some(libc::EINVAL) => {}
            found => {
                assert!(found.unwrap().ok);
                assert!(run_with(":seed=5:mode=check").unwrap().ok);
                assert!(!run_with(":seed=6:mode=check").unwrap().ok, "what is not there is noticed");
            }
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_disk_that_is_too_small_is_trouble() {
        let path = std::env::temp_dir().join(format!("tessera-small-{}", std::process::id()));
        File::create(&path).unwrap().set_len(4096).unwrap();
        let order = format!("disk:dev={}:mb=1:mode=check", path.display());
        assert!(run(&order.parse().unwrap()).is_err());
        assert!(run(&"disk:mode=both:misspelt=1".parse().unwrap()).is_err());
        assert!(run(&"disk:mode=some".parse().unwrap()).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
