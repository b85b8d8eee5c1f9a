//! Moves a guest's vCPUs from host to host while it works.

use std::num::NonZeroU64;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::guest::{Follower, Word};
use crate::tessera::{Control, Moved};

/// How vCPUs are to be moved.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Between which so many hosts.
    pub hosts: usize,
    /// How many moves follow each other at once: all vCPUs of a guest, if they are to stay evenly spread.
    pub round: u64,
    /// The least time from the start of one round to the start of the next.
    pub every: Duration,
    /// How many moves at most.
    pub most: u64,
    /// When they begin.
    pub begin: Begin,
}

/// When moves begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// When the guest's first process says that it is up.
    WhenUp,
    /// With the first byte on its console, while it boots: for guests that say nothing to us.
    AtFirstOutput,
    /// With its first result: for guests whose first program prepares the others.
    AtFirstResult,
}

/// What the moves were like.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    /// Blackouts of those that were carried out, in microseconds.
    pub blackout_us: Vec<u64>,
    /// Bytes of state that each of them sent.
    pub bytes: Vec<u64>,
    /// What was said about those that failed.
    pub errors: Vec<String>,
}

/// Follows a guest and moves its vCPUs until its last result, in turn, each to the next host.
pub struct Mover {
    control: Control,
    plan: Plan,
    running: Option<Running>,
    /// Gets the console, if somebody wants it.
    console: Option<Sink>,
    /// How many results the guest will give: with the last one the moves end.
    results_due: usize,
    /// A line on stderr after each so many moves.
    tells_every: Option<NonZeroU64>,
}

/// Takes what the guest's console says.
type Sink = Box<dyn FnMut(&[u8])>;

struct Running {
    thread: JoinHandle<Moves>,
    /// When it is dropped, the thread makes no more moves.
    stop: Option<Sender<()>>,
}

impl Mover {
    /// Follows a guest that will give this many results.
    pub fn new(control: Control, plan: Plan, results_due: usize) -> Self {
        Self { control, plan, running: None, console: None, results_due, tells_every: None }
    }

    /// Gives the console to `sink`.
    #[must_use]
    pub fn with_console(mut self, sink: impl FnMut(&[u8]) + 'static) -> Self {
        self.console = Some(Box::new(sink));
        self
    }

    /// Says on stderr how far it is, after each so many moves.
    #[must_use]
    pub fn telling_every(mut self, moves: NonZeroU64) -> Self {
        self.tells_every = Some(moves);
        self
    }

    /// Ends the moves, if they have not ended; gives what they were like.
    pub fn finish(mut self) -> Moves {
        let Some(running) = self.running.take() else { return Moves::default() };
        drop(running.stop);
        running
            .thread
            .join()
            .unwrap_or_else(|_| Moves { errors: vec!["the mover panicked".into()], ..Moves::default() })
    }

    fn start(&mut self, now: Begin) {
        if self.running.is_some() || self.plan.begin != now || self.plan.hosts < 2 || self.plan.most == 0 {
            return;
        }
        let (stop, stopped) = channel::<()>();
        let (control, plan, tells_every) = (self.control.clone(), self.plan.clone(), self.tells_every);
        let thread = std::thread::spawn(move || {
            let mut moves = Moves::default();
            let mut next = Instant::now();
            for turn in 0..plan.most {
                let begins_round = turn % plan.round.max(1) == 0;
                let pause = if begins_round {
                    next.saturating_duration_since(Instant::now())
                } else {
                    Duration::ZERO
                };
                if stops_within(&stopped, pause) {
                    break;
                }
                if begins_round {
                    next = Instant::now() + plan.every;
                }
                match move_one(&control, plan.hosts, turn) {
                    Ok(moved) => {
                        moves.blackout_us.push(moved.blackout_us);
                        moves.bytes.push(moved.bytes);
                    }
                    // The guest may have ended meanwhile: then there is nothing to move any more.
                    Err(_) if stops_within(&stopped, Duration::from_secs(2)) => break,
                    Err(error) => moves.errors.push(format!("{error:#}")),
                }
                if tells_every.is_some_and(|every| (turn + 1) % every == 0) {
                    eprintln!("{} of at most {} moves, {} failed", turn + 1, plan.most, moves.errors.len());
                }
            }
            moves
        });
        self.running = Some(Running { thread, stop: Some(stop) });
    }

    /// Lets no more moves start.
    fn hold(&mut self) {
        if let Some(running) = &mut self.running {
            running.stop = None;
        }
    }
}

/// Waits; gives whether the moves are to end.
fn stops_within(stopped: &Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
}

fn move_one(control: &Control, hosts: usize, turn: u64) -> Result<Moved> {
    let vcpus = control.vcpus()?;
    ensure!(!vcpus.is_empty(), "the guest has no vCPUs");
    let vcpu = &vcpus[turn as usize % vcpus.len()];
    control.move_vcpu(vcpu.vcpu, (vcpu.node + 1) % hosts)
}

impl Follower for Mover {
    fn console(&mut self, bytes: &[u8]) {
        self.start(Begin::AtFirstOutput);
        if let Some(sink) = &mut self.console {
            sink(bytes);
        }
    }

    fn word(&mut self, word: &Word) {
        match word {
            Word::Ready(_) => self.start(Begin::WhenUp),
            Word::Result(_) => {
                self.start(Begin::AtFirstResult);
                self.results_due = self.results_due.saturating_sub(1);
                if self.results_due == 0 {
                    self.hold();
                }
            }
            Word::LogProblems(_) => self.hold(),
        }
    }
}
