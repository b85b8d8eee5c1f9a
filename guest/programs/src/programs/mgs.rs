//! Modified Gram-Schmidt: the orthonormal basis of the columns of a random matrix, in parallel over its
//! columns, as in the process-migration experiments of Gobelins (Vallée et al. 2002).
//!
//! For k = 0, 1, ...: column k is normalised (it is then q_k), and from every later column its part along q_k
//! is taken away. Columns belong to threads block by block, in turns; each thread makes and changes only its
//! own, which lie in memory of its own that it touched first. What travels between hosts is each q_k once,
//! to every host that reads it, and one page per thread with the count of columns it has published. A thread
//! that owns the next column brings that column up to date first and publishes it, before it does the rest of
//! its work for this step (look-ahead).
//!
//! Each column sees the same operations in the same order whatever the number of threads: results are
//! bit-identical.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Barrier;
use std::time::Instant;

use super::Finding;
use crate::cpus;
use crate::json::{float, Object};
use crate::memory::{Pages, PAGE_WORDS};
use crate::orders::Order;
use crate::random::{mix, Random};
use crate::spin::{self, Cycles};
use crate::trouble::Trouble;

/// Pairs of columns whose scalar product is looked at.
const SAMPLED_PAIRS: u64 = 64;
/// Largest scalar product of two columns that still counts as orthogonal. Random square matrices of a few
/// thousand columns have condition numbers up to some 10^6, and the loss of MGS is that times the machine's
/// precision.
const TOLERANCE: f64 = 1e-6;
/// Partial sums of a scalar product, so that the compiler may use vector registers in a fixed order.
const LANES: usize = 8;

/// The task, the same for all threads.
#[derive(Clone, Copy, Debug)]
struct Task {
    rows: usize,
    columns: usize,
    seed: u64,
    block: usize,
    threads: usize,
    patience: Cycles,
}

impl Task {
    /// In every other turn the threads take their blocks in the opposite order: later columns are more work.
    fn owner(&self, column: usize) -> usize {
        let (turn, place) = (self.turn(column), column / self.block % self.threads);
        if turn.is_multiple_of(2) {
            place
        } else {
            self.threads - 1 - place
        }
    }

    /// In a turn each thread takes one block.
    fn turn(&self, column: usize) -> usize {
        column / (self.block * self.threads)
    }

    /// How many columns before `column` its owner has.
    fn rank(&self, column: usize) -> usize {
        self.turn(column) * self.block + column % self.block
    }

    fn owned(&self, thread: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.columns).filter(move |&column| self.owner(column) == thread)
    }

    /// Pages of a thread's columns, one behind the other.
    fn pages(&self, thread: usize) -> usize {
        (self.owned(thread).count() * self.rows).div_ceil(PAGE_WORDS)
    }
}

/// What the threads share. Each variable that changes has a page to itself.
struct Shared {
    task: Task,
    /// Each thread's columns, one after another.
    memory: Vec<Pages>,
    /// Page t: how many of its columns thread t has published.
    published: Pages,
    /// Page t: whether thread t sleeps.
    asleep: Pages,
    /// Page t: the hash and the bits of the worst scalar product that thread t found.
    answers: Pages,
    /// Hash of each column, in a part of pages that belongs to its owner: page t * hash_pages.
    hashes: Pages,
}

impl Shared {
    fn new(task: Task) -> Result<Self, Trouble> {
        let hash_pages = Self::hash_pages(&task);
        Ok(Self {
            // Only room is made here: each thread touches its own.
            memory: (0..task.threads)
                .map(|thread| Pages::huge(task.pages(thread)))
                .collect::<Result<_, _>>()?,
            published: Pages::new(task.threads)?,
            asleep: Pages::new(task.threads)?,
            answers: Pages::new(task.threads)?,
            hashes: Pages::new(task.threads * hash_pages)?,
            task,
        })
    }

    /// Where a column is.
    fn place(&self, column: usize) -> *mut f64 {
        let first = self.task.rank(column) * self.task.rows;
        self.memory[self.task.owner(column)].words()[first].as_ptr().cast()
    }

    fn hash_pages(task: &Task) -> usize {
        task.columns.div_ceil(task.threads).next_multiple_of(task.block).div_ceil(PAGE_WORDS) + 1
    }

    fn hash(&self, column: usize) -> &AtomicU64 {
        let first = self.task.owner(column) * Self::hash_pages(&self.task) * PAGE_WORDS;
        &self.hashes.words()[first + self.task.rank(column)]
    }

    fn asleep(&self, thread: usize) -> &AtomicU32 {
        as_half(self.asleep.lone(thread))
    }

    fn published(&self, thread: usize) -> &AtomicU32 {
        as_half(self.published.lone(thread))
    }

    /// Waits until column `column` is q_column, and gives it.
    fn finished(&self, me: usize, column: usize, generation: u32) -> &[f64] {
        let (owner, rank) = (self.task.owner(column), self.task.rank(column) as u32);
        let wanted = self.mark(generation, rank);
        if owner == me {
            // It was finished before, and may not be published yet.
            return self.finished_column(column);
        }
        spin::wait(self.published(owner), self.asleep(me), self.task.patience, |count| {
            count.wrapping_sub(wanted) as i32 >= 0
        });
        self.finished_column(column)
    }

    /// A column that is q_column already, by the caller's own doing or by what it has seen published.
    fn finished_column(&self, column: usize) -> &[f64] {
        // SAFETY: finished columns are never changed again in this generation, and a count that says so was read with
        // acquire order.
        unsafe { std::slice::from_raw_parts(self.place(column), self.task.rows) }
    }

    fn publish(&self, column: usize, generation: u32) {
        let (owner, rank) = (self.task.owner(column), self.task.rank(column) as u32);
        let asleep = (0..self.task.threads).map(|thread| self.asleep(thread));
        spin::publish(self.published(owner), self.mark(generation, rank), asleep);
    }

    /// The value of a thread's page when its column of that rank is published: grows over ranks and repeats.
    fn mark(&self, generation: u32, rank: u32) -> u32 {
        generation * (self.task.columns as u32 + 1) + rank + 1
    }
}

fn as_half(word: &AtomicU64) -> &AtomicU32 {
    // SAFETY: the first half of an aligned word, which is only ever used as that half.
    unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
}

/// One thread's columns.
struct Mine<'a> {
    shared: &'a Shared,
    me: usize,
    generation: u32,
    /// Its columns' numbers, and how many q have been taken from each.
    columns: Vec<(usize, usize)>,
}

impl Mine<'_> {
    /// Fills the columns with their random numbers.
    fn generate(&mut self) {
        for index in 0..self.columns.len() {
            let column = self.columns[index].0;
            self.columns[index].1 = 0;
            let mut random = Random::new(mix(self.shared.task.seed ^ mix(column as u64 + 1)));
            self.column(index).iter_mut().for_each(|value| *value = random.centred());
        }
    }

    /// A column that is not published yet, or no more: nobody else looks at it.
    fn column(&mut self, index: usize) -> &mut [f64] {
        // SAFETY: `rows` words of this thread's own memory from there on, which others read only between the
        // column's publication and the barrier after the last step. Any bits are an f64.
        unsafe {
            std::slice::from_raw_parts_mut(self.shared.place(self.columns[index].0), self.shared.task.rows)
        }
    }

    /// A column that is published.
    fn published(&self, index: usize) -> &[f64] {
        // SAFETY: as above; nobody changes a published column.
        unsafe { std::slice::from_raw_parts(self.shared.place(self.columns[index].0), self.shared.task.rows) }
    }

    /// All steps, a block of columns at a time: what a thread reads of another's memory it reads in one go.
    fn factorise(&mut self) {
        let task = self.shared.task;
        // Columns before `next` are published.
        let mut next = self.look_ahead(0, 0);
        for start in (0..task.columns).step_by(task.block) {
            if next == self.columns.len() {
                break;
            }
            let end = (start + task.block).min(task.columns);
            if task.owner(start) != self.me {
                self.shared.finished(self.me, end - 1, self.generation);
            }
            next = self.look_ahead(next, end);
            for index in next..self.columns.len() {
                self.bring_up(index, end);
            }
        }
    }

    /// While the column after those published is this thread's own: finishes and publishes it. `upto`:
    /// columns before it are published by whoever owns them. Gives the first of its own columns that is not
    /// published.
    fn look_ahead(&mut self, mut next: usize, mut upto: usize) -> usize {
        while next < self.columns.len() && self.columns[next].0 <= upto {
            let column = self.columns[next].0;
            self.bring_up(next, column);
            normalise(self.column(next));
            next += 1;
            upto = column + 1;
            // Once for a block: each time, the page with the count has to come here and go back.
            if upto.is_multiple_of(self.shared.task.block) || next == self.columns.len() {
                self.shared.publish(column, self.generation);
            }
        }
        next
    }

    /// Takes q_0 .. q_(upto - 1) away from a column, as far as that has not been done.
    fn bring_up(&mut self, index: usize, upto: usize) {
        let done: Range<usize> = self.columns[index].1..upto;
        for k in done {
            let q = self.shared.finished(self.me, k, self.generation);
            subtract(self.column(index), q);
        }
        self.columns[index].1 = self.columns[index].1.max(upto);
    }

    /// Hashes the own columns' bits.
    fn hash(&mut self) {
        for index in 0..self.columns.len() {
            let hash = self.published(index).iter().fold(0, |hash, value| mix(hash ^ value.to_bits()));
            self.shared.hash(self.columns[index].0).store(hash, Ordering::Release);
        }
    }

    /// The greatest scalar product of an own column with others, and of its distance from length 1, over some
    /// samples.
    fn worst(&mut self) -> f64 {
        let task = self.shared.task;
        let mut random = Random::new(task.seed ^ self.me as u64);
        let mut worst: f64 = 0.0;
        for _ in 0..SAMPLED_PAIRS.min(task.columns as u64) {
            let index = random.below(self.columns.len() as u64) as usize;
            let Some(&(own, _)) = self.columns.get(index) else { break };
            let other = random.below(task.columns as u64) as usize;
            let q = self.shared.finished(self.me, other, self.generation);
            let product = dot(self.published(index), q);
            let distance = if own == other { (product - 1.0).abs() } else { product.abs() };
            // A NaN must not disappear in a comparison.
            worst = if distance.is_nan() { f64::INFINITY } else { worst.max(distance) };
        }
        worst
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (mut left, mut right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in left.by_ref().zip(right.by_ref()) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

fn subtract(column: &mut [f64], q: &[f64]) {
    let along = dot(column, q);
    column.iter_mut().zip(q).for_each(|(value, q)| *value -= along * q);
}

fn normalise(column: &mut [f64]) {
    let length = dot(column, column).sqrt();
    column.iter_mut().for_each(|value| *value /= length);
}

/// What a whole run gives.
#[derive(Debug)]
struct Answer {
    checksum: u64,
    worst: f64,
    setup_s: f64,
    seconds: Vec<f64>,
}

fn solve(task: Task, repeat: u32, cpus: &[usize]) -> Result<Answer, Trouble> {
    let shared = Shared::new(task)?;
    let barrier = Barrier::new(task.threads);
    let start = Instant::now();
    let times = cpus::on_each(cpus, |me| {
        let columns = task.owned(me).map(|column| (column, 0)).collect();
        let mut mine = Mine { shared: &shared, me, generation: 0, columns };
        let mut times = vec![];
        for generation in 0..repeat {
            mine.generation = generation;
            mine.generate();
            barrier.wait();
            if generation == 0 {
                times.push(start.elapsed().as_secs_f64());
            }
            let begin = Instant::now();
            mine.factorise();
            barrier.wait();
            times.push(begin.elapsed().as_secs_f64());
            // Nobody may start over while others still read these columns.
            barrier.wait();
        }
        mine.generation = repeat - 1;
        mine.hash();
        shared.answers.lone(me).store(mine.worst().to_bits(), Ordering::Release);
        times
    })?;
    let slowest = |round: usize| times.iter().map(|times| times[round]).fold(0.0, f64::max);
    let worst = (0..task.threads).map(|t| f64::from_bits(shared.answers.lone(t).load(Ordering::Acquire)));
    Ok(Answer {
        checksum: (0..task.columns)
            .fold(0, |sum, column| mix(sum ^ shared.hash(column).load(Ordering::Acquire))),
        worst: worst.fold(0.0, f64::max),
        setup_s: slowest(0),
        seconds: (1..=repeat as usize).map(slowest).collect(),
    })
}

/// Runs the program. Parameters: `m` rows (1000), `n` columns (m or 1000), `seed`, `threads` (0: one per
/// CPU), `block` (8), `repeat` (1), `patience` (100: after so many million cycles a thread that waits for a column goes to sleep; to be
/// woken from another host takes long).
///
/// # Errors
/// Parameters that make no sense, or no memory.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["m", "n", "seed", "threads", "block", "repeat", "patience"])?;
    let rows = order.number("m", 1000, 1)? as usize;
    let columns = order.number("n", rows.min(1000) as u64, 1)? as usize;
    let repeat = order.number("repeat", 1, 1)?.min(1000) as u32;
    let block = order.number("block", 8.min(columns as u64), 1)? as usize;
    let seed = order.number("seed", 1, 0)?;
    let cpus = cpus::spread(order.number("threads", 0, 0)?.min(1024) as usize);
    if columns > rows || rows.saturating_mul(columns) > 1 << 34 || block > columns {
        return Err(Trouble::order(
            format!("m={rows} n={columns} block={block}"),
            "needs block <= n <= m, and m * n up to 2^34",
        ));
    }
    let patience =
        Cycles(order.number("patience", spin::PATIENCE.0 / 1_000_000, 0)?.saturating_mul(1_000_000));
    let task = Task { rows, columns, seed, block, threads: cpus.len(), patience };
    let answer = solve(task, repeat, &cpus)?;
    let fastest = answer.seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let mut figures = Object::default();
    figures
        .add("m", rows)
        .add("n", columns)
        .add("seed", seed)
        .add("threads", task.threads)
        .add("block", block);
    figures.float("setup_s", answer.setup_s).list("all_seconds", answer.seconds.iter().map(|&s| float(s)));
    figures.float("mflops", 2.0 * rows as f64 * (columns as f64).powi(2) / fastest / 1e6);
    figures.text("checksum", &format!("{:016x}", answer.checksum)).float("worst_product", answer.worst);
    Ok(Finding { figures, seconds: fastest, ok: answer.worst < TOLERANCE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(rows: usize, columns: usize, threads: usize, block: usize) -> Task {
        Task { rows, columns, seed: 5, block, threads, patience: spin::PATIENCE }
    }

    fn on(task: Task, repeat: u32) -> Answer {
        solve(task, repeat, &cpus::spread(task.threads)).unwrap()
    }

    /// The textbook's two loops, nothing else.
    fn plainly(task: Task) -> Vec<Vec<f64>> {
        let mut a: Vec<Vec<f64>> = (0..task.columns)
            .map(|column| {
                let mut random = Random::new(mix(task.seed ^ mix(column as u64 + 1)));
                (0..task.rows).map(|_| random.centred()).collect()
            })
            .collect();
        for k in 0..task.columns {
            normalise(&mut a[k]);
            let (done, rest) = a.split_at_mut(k + 1);
            rest.iter_mut().for_each(|column| subtract(column, &done[k]));
        }
        a
    }

    #[test]
    fn the_result_is_bit_identical_to_the_plain_loops_whatever_the_threads() {
        for (rows, columns) in [(40, 40), (601, 37), (16, 1)] {
            let expected = plainly(task(rows, columns, 1, 1)).iter().fold(0, |sum, column| {
                mix(sum ^ column.iter().fold(0, |hash, value| mix(hash ^ value.to_bits())))
            });
            for (threads, block) in [(1, 1), (2, 1), (2, 4), (3, 2), (5, 1), (4, 64)] {
                let answer = on(task(rows, columns, threads, block), 1);
                assert_eq!(answer.checksum, expected, "{rows}x{columns} on {threads} threads, block {block}");
                assert!(answer.worst < 1e-9, "{}", answer.worst);
            }
        }
    }

    #[test]
    fn repeats_start_from_the_same_matrix() {
        let once = on(task(64, 32, 2, 4), 1);
        let often = on(task(64, 32, 2, 4), 3);
        assert_eq!(once.checksum, often.checksum);
        assert_eq!(often.seconds.len(), 3);
        assert_ne!(once.checksum, on(Task { seed: 6, ..task(64, 32, 2, 4) }, 1).checksum);
    }

    #[test]
    fn owners_and_ranks_number_each_thread_s_columns() {
        let task = task(10, 29, 3, 4);
        for thread in 0..3 {
            for (rank, column) in task.owned(thread).enumerate() {
                assert_eq!((task.owner(column), task.rank(column)), (thread, rank));
            }
        }
    }

    #[test]
    fn columns_that_are_not_orthogonal_are_seen() {
        let shared = Shared::new(task(32, 2, 1, 1)).unwrap();
        let mut mine = Mine { shared: &shared, me: 0, generation: 0, columns: vec![(0, 0), (1, 0)] };
        mine.generate();
        normalise(mine.column(0));
        normalise(mine.column(1));
        shared.publish(1, 0);
        assert!(mine.worst() > 1e-3);
    }
}
