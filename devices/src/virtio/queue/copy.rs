//! Bytes between guest memory and ours, in as few loans as the pager allows.

use tessera_dsm::pager::{PageSet, Wanted};
use tessera_dsm::protocol::Access;
use tessera_dsm::PAGE_BYTES;
use vm_memory::{Bytes, GuestAddress};

use super::chain::{Buffer, Chain};
use super::error::QueueError;
use crate::ram::{GuestRam, Loan};

/// Most pages of buffers in one loan. Half of what the pager lends: a ring may have to fit in besides, and another
/// host that waits for a page gets it sooner.
const LOAN_PAGES: u64 = tessera_dsm::pager::BORROW_PAGES_MAX / 2;
/// A longer run is copied in pieces.
const PIECE_BYTES: u64 = LOAN_PAGES / 4 * PAGE_BYTES as u64;

/// Bytes and where in guest memory they go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write<'a> {
    /// Where they go.
    pub gpa: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A run of guest memory that can be cut in two.
trait Run: Sized {
    fn gpa(&self) -> u64;
    fn len(&self) -> u64;
    fn split(self, at: u64) -> (Self, Self);

    fn pages(&self) -> u64 {
        (self.gpa() % PAGE_BYTES as u64 + self.len()).div_ceil(PAGE_BYTES as u64)
    }
}

impl Run for Buffer {
    fn gpa(&self) -> u64 {
        self.gpa
    }

    fn len(&self) -> u64 {
        self.len.into()
    }

    fn split(self, at: u64) -> (Self, Self) {
        // (A cut is inside the run, whose length has 32 bits.)
        (Buffer { len: at as u32, ..self }, Buffer { gpa: self.gpa + at, len: self.len - at as u32 })
    }
}

impl Run for Write<'_> {
    fn gpa(&self) -> u64 {
        self.gpa
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn split(self, at: u64) -> (Self, Self) {
        let (head, tail) = self.bytes.split_at(at as usize);
        (Write { bytes: head, ..self }, Write { gpa: self.gpa + at, bytes: tail })
    }
}

/// The runs in the same order, cut and put together so that each group fits into a loan. At least one group.
fn groups<R: Run>(runs: impl IntoIterator<Item = R>) -> Vec<Vec<R>> {
    let (mut groups, mut group, mut pages) = (Vec::new(), Vec::new(), 0);
    for run in runs {
        let mut rest = Some(run);
        while let Some(run) = rest.take() {
            let piece = match run.len() > PIECE_BYTES {
                true => {
                    let (piece, tail) = run.split(PIECE_BYTES);
                    rest = Some(tail);
                    piece
                }
                false => run,
            };
            if pages + piece.pages() > LOAN_PAGES {
                groups.push(std::mem::take(&mut group));
                pages = 0;
            }
            pages += piece.pages();
            group.push(piece);
        }
    }
    groups.push(group);
    groups
}

/// What is wanted of the memory under some runs.
fn wanted<R: Run>(group: &[R], access: Access) -> impl Iterator<Item = Wanted> + '_ {
    group.iter().map(move |run| Wanted { gpa: run.gpa(), len: run.len(), access })
}

/// The bytes of all these buffers, one after the other. The caller has bounded how many there are.
///
/// # Errors
/// When guest memory is not lent.
pub fn read_all(
    ram: &dyn GuestRam,
    buffers: impl IntoIterator<Item = Buffer>,
) -> Result<Vec<u8>, QueueError> {
    let mut bytes = Vec::new();
    for group in groups(buffers).into_iter().filter(|group| !group.is_empty()) {
        let loan = ram.borrow(PageSet::covering(wanted(&group, Access::Read))?)?;
        for buffer in group {
            let start = bytes.len();
            bytes.resize(start + buffer.len as usize, 0);
            loan.read_slice(&mut bytes[start..], GuestAddress(buffer.gpa))?;
        }
    }
    Ok(bytes)
}

/// What the driver has put into several chains.
pub struct ChainBytes {
    bytes: Vec<u8>,
    /// How many of them each chain has.
    lengths: Vec<usize>,
}

impl ChainBytes {
    /// Each chain's bytes, in the order of the chains.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map(move |&length| {
            let (own, behind) = rest.split_at(length);
            rest = behind;
            own
        })
    }

    /// All chains' bytes, one after the other.
    pub fn all(&self) -> &[u8] {
        &self.bytes
    }
}

/// The readable bytes of all these chains, in as few loans as the pager allows. The caller has bounded how many there are.
///
/// # Errors
/// When guest memory is not lent.
pub fn read_chains(ram: &dyn GuestRam, chains: &[Chain]) -> Result<ChainBytes, QueueError> {
    let bytes = read_all(ram, chains.iter().flat_map(|chain| chain.readable.iter().copied()))?;
    let lengths = chains.iter().map(|chain| chain.readable_len() as usize).collect();
    Ok(ChainBytes { bytes, lengths })
}

/// Writes all bytes to their places, then, under the last loan, does `finish` with memory of its own besides.
///
/// # Errors
/// When guest memory is not lent, and what `finish` says.
pub(super) fn write_all_and<'b, T>(
    ram: &dyn GuestRam,
    writes: impl IntoIterator<Item = Write<'b>>,
    own: &[Wanted],
    finish: impl FnOnce(&Loan<'_>) -> Result<T, QueueError>,
) -> Result<T, QueueError> {
    let mut groups = groups(writes);
    let last = groups.pop().unwrap_or_default();
    for group in groups {
        let loan = ram.borrow(PageSet::covering(wanted(&group, Access::Write))?)?;
        write(&loan, &group)?;
    }
    let loan = ram.borrow(PageSet::covering(wanted(&last, Access::Write).chain(own.iter().copied()))?)?;
    write(&loan, &last)?;
    finish(&loan)
}

fn write(loan: &Loan<'_>, group: &[Write<'_>]) -> Result<(), QueueError> {
    for piece in group {
        loan.write_slice(piece.bytes, GuestAddress(piece.gpa))?;
    }
    Ok(())
}
