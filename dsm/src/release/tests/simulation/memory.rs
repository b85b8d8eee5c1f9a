//! What every cell must hold.

use super::super::host::Host;
use super::PAGE;

/// Bytes of a cell: its value, twice.
const CELL: usize = 2;
const CELLS: usize = PAGE / CELL;

/// A cell: a place in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub page: usize,
    at: usize,
}

impl Cell {
    /// What a page of a host holds there.
    pub fn of<'a>(&self, bytes: &'a [u8; PAGE]) -> &'a [u8] {
        &bytes[self.at..self.at + CELL]
    }

    pub fn write(&self, bytes: &mut [u8; PAGE], value: u8) {
        bytes[self.at..self.at + CELL].fill(value);
    }
}

/// All cells; cell `i` belongs to lock `i % locks`.
pub struct Memory {
    locks: usize,
    /// What the last holder of the cell's lock wrote.
    latest: Vec<u8>,
    /// Whether a value was ever written.
    written: Vec<[bool; 256]>,
}

impl Memory {
    pub fn new(pages: usize, locks: usize) -> Self {
        let cells = pages * CELLS;
        let mut written = vec![[false; 256]; cells];
        written.iter_mut().for_each(|values| values[0] = true);
        Memory { locks, latest: vec![0; cells], written }
    }

    pub fn cells(&self) -> usize {
        self.latest.len()
    }

    pub fn cell(&self, index: usize) -> Cell {
        Cell { page: index / CELLS, at: index % CELLS * CELL }
    }

    /// The cells of a lock.
    pub fn of_lock(&self, lock: usize) -> impl Iterator<Item = usize> {
        (lock..self.cells()).step_by(self.locks)
    }

    pub fn write(&mut self, index: usize, value: u8) {
        self.latest[index] = value;
        self.written[index][usize::from(value)] = true;
    }

    /// A value that the cell does not hold.
    pub fn next(&self, index: usize) -> u8 {
        self.latest[index].wrapping_add(1)
    }

    /// The lock's holder reads a cell.
    pub fn check(&self, index: usize, bytes: &[u8; PAGE]) -> Result<(), String> {
        let (seen, latest) = (self.cell(index).of(bytes), self.latest[index]);
        match seen == [latest; CELL] {
            true => Ok(()),
            false => Err(format!("cell {index} holds {seen:?}, last written was {latest}")),
        }
    }

    /// Somebody reads a cell without its lock.
    pub fn check_peep(&self, index: usize, bytes: &[u8; PAGE]) -> Result<(), String> {
        let seen = self.cell(index).of(bytes);
        match seen[0] == seen[1] && self.written[index][usize::from(seen[0])] {
            true => Ok(()),
            false => Err(format!("cell {index} holds {seen:?}, which nobody wrote")),
        }
    }

    /// A lock's holder is lost: what is released stands. It was checked before what that may be.
    pub fn adopt(&mut self, index: usize, bytes: &[u8; PAGE]) {
        self.latest[index] = self.cell(index).of(bytes)[0];
    }

    /// Everything is released.
    pub fn check_all<const N: usize>(&self, owner: &Host<N>) -> Result<(), String> {
        for index in 0..self.cells() {
            let Cell { page, at } = self.cell(index);
            let seen = &owner.mappings[page].released()[at..at + CELL];
            if seen != [self.latest[index]; CELL] {
                return Err(format!("at the end cell {index} holds {seen:?}, not {}", self.latest[index]));
            }
        }
        Ok(())
    }
}
