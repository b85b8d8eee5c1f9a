//! Device accesses of vCPUs that run away from home: one question to the home node, one answer.
//!
//! Writes to a PCI device's memory are *posted*, as on a PC: the vCPU does not wait for them. What it asks later is
//! answered after they have arrived, because the control connection keeps their order.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this long without an answer the home node is as good as lost; its loss is noticed sooner elsewhere.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Most writes of a vCPU that nobody has waited for. The next one is a question: a guest that does nothing but kick
/// does not fill the connection on which interrupts travel.
const POSTED_MAX: u32 = 64;

/// One vCPU's open question.
#[derive(Debug, Default)]
struct Slot {
    token: u32,
    waiting: bool,
    answer: Option<Vec<u8>>,
}

/// The open questions of all vCPUs: at most one each, since a vCPU waits for its answer.
#[derive(Debug)]
pub struct RemoteIo {
    slots: Vec<(Mutex<Slot>, Condvar)>,
    /// For each vCPU, how many writes were posted since its last question.
    posted: Vec<AtomicU32>,
    closed: Mutex<bool>,
}

impl RemoteIo {
    /// For so many vCPUs.
    pub fn new(vcpus: usize) -> Self {
        RemoteIo {
            slots: (0..vcpus).map(|_| Default::default()).collect(),
            posted: (0..vcpus).map(|_| AtomicU32::new(0)).collect(),
            closed: Mutex::new(false),
        }
    }

    /// Whether vCPU `index` may post one more write; if so, it counts.
    pub fn may_post(&self, index: usize) -> bool {
        // Only the vCPU's own thread changes the count.
        self.posted[index].fetch_add(1, Ordering::Relaxed) < POSTED_MAX
    }

    /// Whether vCPU `index` has posted writes that may still be on their way.
    pub fn has_posted(&self, index: usize) -> bool {
        self.posted[index].load(Ordering::Relaxed) > 0
    }

    /// Opens a question of vCPU `index` and gives its token.
    pub fn open(&self, index: usize) -> u32 {
        self.posted[index].store(0, Ordering::Relaxed);
        let mut slot = lock(&self.slots[index].0);
        slot.token = slot.token.wrapping_add(1);
        slot.waiting = true;
        slot.answer = None;
        slot.token
    }

    /// Waits for the answer; `None` if it will not come.
    pub fn wait(&self, index: usize) -> Option<Vec<u8>> {
        let (mutex, condvar) = &self.slots[index];
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut slot = lock(mutex);
        while slot.answer.is_none() && !*lock(&self.closed) {
            let left = deadline.checked_duration_since(Instant::now())?;
            slot = condvar.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        slot.waiting = false;
        slot.answer.take()
    }

    /// Gives an answer; one that nobody waits for is dropped.
    pub fn answer(&self, index: usize, token: u32, data: Vec<u8>) {
        let Some((mutex, condvar)) = self.slots.get(index) else { return };
        let mut slot = lock(mutex);
        if slot.waiting && slot.token == token {
            slot.answer = Some(data);
            condvar.notify_all();
        }
    }

    /// No answer will come any more.
    pub fn give_up(&self) {
        *lock(&self.closed) = true;
        for (mutex, condvar) in &self.slots {
            let _slot = lock(mutex);
            condvar.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reaches_its_question_only() {
        let io = RemoteIo::new(2);
        let old = io.open(0);
        let token = io.open(0);
        io.answer(0, old, vec![1]);
        io.answer(1, token, vec![2]);
        io.answer(9, token, vec![3]);
        io.answer(0, token, vec![4]);
        assert_eq!(io.wait(0), Some(vec![4]));
    }

    #[test]
    fn posted_writes_are_counted_until_the_next_question() {
        let io = RemoteIo::new(2);
        assert!(!io.has_posted(0));
        assert!((0..POSTED_MAX).all(|_| io.may_post(0)));
        assert!(!io.may_post(0), "this one has to be waited for");
        assert!(io.has_posted(0) && io.may_post(1));
        io.open(0);
        assert!(!io.has_posted(0) && io.may_post(0));
    }

    #[test]
    fn giving_up_releases_who_waits() {
        let io = RemoteIo::new(1);
        io.open(0);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| io.wait(0));
            io.give_up();
            assert_eq!(waiter.join().expect("no panic"), None);
        });
    }
}
