//! On every CPU one thread touches random pages that other CPUs touch too, and another one only computes: how much of both gets
//! done shows what a CPU does while a page travels.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::Finding;
use crate::cpus;
use crate::json::Object;
use crate::memory::{Pages, PAGE_BYTES};
use crate::orders::Order;
use crate::random::{mix, Random};
use crate::spin::tsc;
use crate::trouble::Trouble;

/// Steps of a computation before the thread looks whether to stop.
const STEPS: u64 = 1000;

/// What is done to the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// All add to words.
    Add,
    /// All read what nobody writes any more.
    Read,
    /// The first CPU writes, the others read.
    Feed,
}

impl Kind {
    fn of(order: &Order) -> Result<Self, Trouble> {
        match order.text("kind").unwrap_or("add") {
            "add" => Ok(Self::Add),
            "read" => Ok(Self::Read),
            "feed" => Ok(Self::Feed),
            other => Err(Trouble::order(format!("kind={other}"), "is not add, read or feed")),
        }
    }
}

/// What one thread has done.
#[derive(Clone, Copy, Default)]
struct Done {
    touches: u64,
    work: u64,
    wrong: u64,
}

/// What all threads see.
struct Scene {
    kind: Kind,
    memory: Pages,
    /// Written once at the beginning: every host reads its own copy.
    stop: AtomicBool,
    all_there: Barrier,
}

impl Scene {
    /// What page `page` is filled with.
    fn pattern(page: usize) -> u64 {
        mix(page as u64)
    }

    /// Touches random pages as CPU `me` until told to stop.
    fn touch(&self, me: usize) -> Done {
        if me == 0 {
            (0..self.memory.len()).for_each(|page| {
                self.memory.lone(page).store(Self::pattern(page), Ordering::Relaxed);
            });
        }
        self.all_there.wait();
        let mut random = Random::new(me as u64 + 1);
        let mut last = vec![0; self.memory.len()];
        let mut done = Done::default();
        while !self.stop.load(Ordering::Relaxed) {
            let page = random.below(self.memory.len() as u64) as usize;
            let words = self.memory.page(page);
            match self.kind {
                // A word of its own for each CPU, so that the sum can be checked; the first one has the pattern.
                Kind::Add => {
                    words[1 + me].fetch_add(1, Ordering::Relaxed);
                }
                Kind::Read => {
                    done.wrong += u64::from(words[0].load(Ordering::Relaxed) != Self::pattern(page));
                }
                Kind::Feed if me == 0 => words[1].store(done.touches + 1, Ordering::Relaxed),
                Kind::Feed => {
                    let seen = words[1].load(Ordering::Relaxed);
                    done.wrong += u64::from(seen < last[page]);
                    last[page] = seen;
                }
            }
            done.touches += 1;
        }
        done
    }

    /// Computes until told to stop.
    fn compute(&self, me: usize) -> Done {
        self.all_there.wait();
        let mut done = Done::default();
        let mut value = me as u64;
        while !self.stop.load(Ordering::Relaxed) {
            value = (0..STEPS).fold(value, |value, step| mix(value ^ step));
            done.work += 1;
        }
        std::hint::black_box(value);
        done
    }
}

/// Runs the program. Parameters: `kind=add|read|feed`, `kib` of shared memory (4096), `seconds` (2).
///
/// # Errors
/// Parameters that make no sense, or no memory.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["kind", "kib", "seconds"])?;
    let cpus = cpus::usable();
    if cpus.len() > 256 {
        return Err(Trouble::Unfit(format!("{} CPUs: at most 256 have words of their own", cpus.len())));
    }
    let pages = order.number("kib", 4096, 4)?.min(1 << 30) as usize * 1024 / PAGE_BYTES;
    let scene = Scene {
        kind: Kind::of(order)?,
        memory: Pages::new(pages)?,
        stop: AtomicBool::new(false),
        all_there: Barrier::new(2 * cpus.len() + 1),
    };
    let time = Duration::from_secs_f64(order.seconds("seconds", 2.0)?);
    let threads: Vec<usize> = cpus.iter().chain(&cpus).copied().collect();
    let (done, (seconds, cycles)) = std::thread::scope(|scope| {
        let timer = scope.spawn(|| {
            scene.all_there.wait();
            let (start, cycle) = (Instant::now(), tsc());
            std::thread::sleep(time);
            scene.stop.store(true, Ordering::Relaxed);
            (start.elapsed().as_secs_f64(), tsc().wrapping_sub(cycle))
        });
        let done = cpus::on_each(&threads, |index| match index.checked_sub(cpus.len()) {
            None => scene.touch(index),
            Some(me) => scene.compute(me),
        });
        (done, timer.join().unwrap_or_default())
    });
    let done = done?;
    let touches: u64 = done.iter().map(|done| done.touches).sum();
    let mut wrong: u64 = done.iter().map(|done| done.wrong).sum();
    if scene.kind == Kind::Add {
        wrong += u64::from(sum(&scene.memory, cpus.len()) != touches);
    }
    let mut figures = Object::default();
    figures.text("kind", order.text("kind").unwrap_or("add")).add("pages", scene.memory.len());
    figures.list("touches", done[..cpus.len()].iter().map(|done| done.touches));
    figures.list("work", done[cpus.len()..].iter().map(|done| done.work));
    figures.add("mcycles", cycles / 1_000_000).add("wrong", wrong);
    Ok(Finding { figures, seconds, ok: wrong == 0 && touches > 0 })
}

/// What all CPUs have added.
fn sum(memory: &Pages, cpus: usize) -> u64 {
    let of_page =
        |page| memory.page(page)[1..=cpus].iter().map(|word| word.load(Ordering::Relaxed)).sum::<u64>();
    (0..memory.len()).map(of_page).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_touches_and_computes() {
        for kind in ["add", "read", "feed"] {
            let order = format!("overlap:kind={kind}:kib=64:seconds=0.1").parse().unwrap();
            let finding = run(&order).unwrap();
            assert!(finding.ok, "{kind}: {}", finding.figures);
        }
        assert!(run(&"overlap:kind=other".parse().unwrap()).is_err());
    }

    #[test]
    fn a_lost_addition_is_found() {
        let memory = Pages::new(2).unwrap();
        memory.page(1)[2].store(3, Ordering::Relaxed);
        memory.page(0)[1].store(4, Ordering::Relaxed);
        assert_eq!(sum(&memory, 2), 7);
    }
}
