//! Threads that do what a disk is asked for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tracing::warn;

use super::disk::Disk;
use super::request::{Operation, Status, ID_BYTES};
use crate::virtio::bell::Bell;
use crate::virtio::queue::Chain;

/// How many requests a disk works on at a time. Most are answered from the host's memory; this is for those that are not.
const THREADS: usize = 4;

/// What is to be done, and for whom.
pub(super) struct Job {
    pub(super) chain: Chain,
    pub(super) operation: Operation,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) chain: Chain,
    pub(super) status: Status,
    /// What was read.
    pub(super) data: Vec<u8>,
}

struct Work {
    disk: Arc<dyn Disk>,
    serial: [u8; ID_BYTES],
    jobs: Mutex<Jobs>,
    wake: Condvar,
    outcomes: Mutex<Vec<Outcome>>,
    bell: Bell,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

/// A disk's threads. Dropping it waits for what is under way.
pub(super) struct DiskPool {
    work: Arc<Work>,
    threads: Vec<JoinHandle<()>>,
    under_way: usize,
}

impl DiskPool {
    /// Threads for a disk that names itself `serial`.
    pub(super) fn start(disk: Arc<dyn Disk>, serial: [u8; ID_BYTES]) -> io::Result<Self> {
        let work = Arc::new(Work {
            disk,
            serial,
            jobs: Mutex::default(),
            wake: Condvar::new(),
            outcomes: Mutex::default(),
            bell: Bell::new()?,
        });
        let mut pool = DiskPool { work, threads: Vec::with_capacity(THREADS), under_way: 0 };
        for number in 0..THREADS {
            let work = pool.work.clone();
            let name = format!("disk-io{number}");
            pool.threads.push(std::thread::Builder::new().name(name).spawn(move || work.run())?);
        }
        Ok(pool)
    }

    /// Has a job done. The caller bounds how many are under way.
    pub(super) fn submit(&mut self, job: Job) {
        self.under_way += 1;
        lock(&self.work.jobs).waiting.push_back(job);
        self.work.wake.notify_one();
    }

    /// What was done since the last call.
    pub(super) fn finished(&mut self) -> Vec<Outcome> {
        self.work.bell.silence();
        let outcomes = std::mem::take(&mut *lock(&self.work.outcomes));
        self.under_way -= outcomes.len();
        outcomes
    }

    /// Jobs whose outcome was not taken yet.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Readable when there are outcomes.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.work.bell.as_fd()
    }
}

impl Drop for DiskPool {
    fn drop(&mut self) {
        lock(&self.work.jobs).closed = true;
        self.work.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&self) {
        while let Some(Job { chain, operation }) = self.next() {
            let (status, data) = match self.perform(&operation) {
                Ok(data) => (Status::Ok, data),
                Err(error) => {
                    warn!("a disk cannot {}: {error}", name(&operation));
                    (Status::Failed, Vec::new())
                }
            };
            lock(&self.outcomes).push(Outcome { chain, status, data });
            self.bell.ring();
        }
    }

    /// The next job; `None` when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does it; gives what was read.
    fn perform(&self, operation: &Operation) -> io::Result<Vec<u8>> {
        match operation {
            Operation::Read(range) => {
                // (A request's size is bounded, far below what a host addresses.)
                let mut data = vec![0; range.bytes as usize];
                self.disk.read_at(range.offset, &mut data)?;
                return Ok(data);
            }
            Operation::GetId => return Ok(self.serial.to_vec()),
            Operation::Write(offset, bytes) => self.disk.write_at(*offset, bytes)?,
            Operation::Flush => self.disk.flush()?,
            Operation::Discard(ranges) => {
                for range in ranges.iter().filter(|range| range.bytes > 0) {
                    self.disk.discard(range.offset, range.bytes)?;
                }
            }
            Operation::WriteZeroes(ranges) => {
                for (range, space) in ranges.iter().filter(|(range, _)| range.bytes > 0) {
                    self.disk.write_zeroes(range.offset, range.bytes, *space)?;
                }
            }
        }
        Ok(Vec::new())
    }
}

fn name(operation: &Operation) -> String {
    match operation {
        Operation::Read(range) => format!("read {} bytes at {}", range.bytes, range.offset),
        Operation::Write(offset, bytes) => format!("write {} bytes at {offset}", bytes.len()),
        Operation::Flush => "flush".into(),
        Operation::GetId => "name itself".into(),
        Operation::Discard(_) => "discard a range".into(),
        Operation::WriteZeroes(_) => "zero a range".into(),
    }
}

/// Locks; what the locks here guard is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
