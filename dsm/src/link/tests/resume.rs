//! Connections over links that take and give any number of bytes at a time, and break at any byte in either direction.
//!
//! Every case has a seed; a failure prints it. `TESSERA_SEED=n` runs that case alone.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Random;
use crate::ids::{Gfn, PAGE_BYTES};
use crate::link::session::{Epoch, Greeting, Side};
use crate::link::{Connection, Link};
use crate::protocol::{Access, Message, Txn};

/// Cases of the test.
const CASES: u64 = 1000;
/// Steps of a case before the links stay whole.
const STEPS: usize = 400;
/// More steps than this to settle: it never will.
const SETTLE_MAX: usize = 20_000;
/// What a link holds on its way.
const WIRE_BYTES: usize = 20_000;

const DIALS: usize = 0;
const ACCEPTS: usize = 1;

/// A connection between two ends, as the network sees it.
struct Wire {
    random: Random,
    /// Bytes on their way, by the end that they go to.
    bytes: [VecDeque<u8>; 2],
    /// Nothing more gets through.
    cut: bool,
    /// How many calls each end may still make before it notices.
    blind: [usize; 2],
}

impl Wire {
    /// Breaks: of what is on its way some arrives, the rest never.
    fn cut(&mut self) {
        if std::mem::replace(&mut self.cut, true) {
            return;
        }
        for side in [DIALS, ACCEPTS] {
            let left = self.random.below(self.bytes[side].len() + 1);
            self.bytes[side].truncate(left);
            self.blind[side] = self.random.below(4);
        }
    }

    /// Whether an end notices now that the wire is cut.
    fn notices(&mut self, side: usize) -> bool {
        let blind = self.blind[side];
        self.blind[side] = blind.saturating_sub(1);
        self.cut && blind == 0
    }
}

/// One end of a wire.
struct Tip {
    wire: Arc<Mutex<Wire>>,
    side: usize,
    nothing: Arc<File>,
}

impl Tip {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().expect("no panic")
    }
}

impl Drop for Tip {
    fn drop(&mut self) {
        self.wire().cut();
    }
}

impl Link for Tip {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.nothing.as_fd()
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let side = self.side;
        let mut wire = self.wire();
        if wire.bytes[side].is_empty() {
            return match (wire.notices(side), wire.random.below(2)) {
                (false, _) => Err(io::ErrorKind::WouldBlock.into()),
                (true, 0) => Ok(0),
                (true, _) => Err(io::ErrorKind::ConnectionReset.into()),
            };
        }
        let most = into.len().min(wire.bytes[side].len());
        let bytes = 1 + wire.random.below(most);
        for (byte, came) in into.iter_mut().zip(wire.bytes[side].drain(..bytes)) {
            *byte = came;
        }
        Ok(bytes)
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let side = self.side;
        let mut wire = self.wire();
        if wire.notices(side) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let room = WIRE_BYTES - wire.bytes[1 - side].len().min(WIRE_BYTES);
        let most = all.len().min(room);
        if most == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = 1 + wire.random.below(most);
        if !wire.cut {
            wire.bytes[1 - side].extend(&all[..bytes]);
        }
        Ok(bytes)
    }
}

/// One end: its connection and what it has seen.
struct End {
    connection: Connection,
    sent: u64,
    got: u64,
}

/// Two ends and the network.
struct Scene {
    ends: [End; 2],
    wire: Arc<Mutex<Wire>>,
    nothing: Arc<File>,
    /// An attempt of the dialler that has not come to the other end: its epoch, what it said, the other end's tip.
    attempts: Vec<(Greeting, Tip)>,
    last: Epoch,
    random: Random,
    now: u64,
}

fn message(number: u64) -> Message {
    let gfn = Gfn(number);
    match number % 3 {
        0 => Message::Done { gfn, txn: Txn(number as u32) },
        _ => Message::Grant { gfn, txn: Txn(1), rights: Access::Write, page: true, acks: 0 },
    }
}

/// The page of a message; every fifth is zeros.
fn page(number: u64) -> Vec<u8> {
    let byte = if number.is_multiple_of(5) { 0 } else { (number % 251) as u8 + 1 };
    let mut page = vec![byte; PAGE_BYTES];
    page[..8].copy_from_slice(&if byte == 0 { 0 } else { number }.to_le_bytes());
    page
}

impl Scene {
    fn new(seed: u64) -> Self {
        let nothing = Arc::new(File::open("/dev/null").expect("open"));
        let wire = wire(seed);
        let end = |side: usize, role| End {
            connection: Connection::new(
                Box::new(Tip { wire: wire.clone(), side, nothing: nothing.clone() }),
                role,
            ),
            sent: 0,
            got: 0,
        };
        Scene {
            ends: [end(DIALS, Side::Dials), end(ACCEPTS, Side::Accepts)],
            wire: wire.clone(),
            nothing,
            attempts: vec![],
            last: Epoch::FIRST,
            random: Random::seeded(seed),
            now: 0,
        }
    }

    fn queue(&mut self, side: usize) {
        let end = &mut self.ends[side];
        let (number, message) = (end.sent, message(end.sent));
        end.sent += 1;
        match message.carries_page() {
            true => {
                let read = |into: &mut [u8; PAGE_BYTES]| {
                    into.copy_from_slice(&page(number));
                    Ok::<(), ()>(())
                };
                end.connection.queue_page(&message, read).expect("room").expect("read");
            }
            false => end.connection.queue(&message).expect("room"),
        }
    }

    fn flush(&mut self, side: usize) {
        let connection = &mut self.ends[side].connection;
        if connection.flush().is_err_and(|error| {
            assert!(error.is_end_of_link(), "side {side}: {error}");
            true
        }) {
            connection.broke(self.now);
        }
    }

    fn take(&mut self, side: usize) {
        let End { connection, got, .. } = &mut self.ends[side];
        if let Err(error) = connection.fill() {
            assert!(error.is_end_of_link(), "side {side}: {error}");
            connection.broke(self.now);
        }
        // Not always all of them: what is left is forgotten with the link.
        let mut most = self.random.below(6);
        while most > 0 {
            let frame = connection.next_frame().unwrap_or_else(|error| panic!("side {side}: {error}"));
            let Some(frame) = frame else { break };
            assert_eq!(frame.message, message(*got), "side {side}");
            if frame.message.carries_page() {
                let zeros = [0; PAGE_BYTES];
                assert!(frame.page.unwrap_or(&zeros)[..] == page(*got)[..], "side {side}: page {got}");
            }
            *got += 1;
            most -= 1;
        }
        connection.confirm().expect("room");
    }

    /// Dials, or lets an attempt come to the other end, perhaps not the first one first.
    fn mend(&mut self) {
        if let Some(greeting) = self.ends[DIALS].connection.session().redial() {
            let epoch = self.last.next().max(greeting.epoch);
            self.last = epoch;
            let wire = wire(self.random.below(1 << 30) as u64);
            let tip = |side| Tip { wire: wire.clone(), side, nothing: self.nothing.clone() };
            self.attempts.push((Greeting { epoch, ..greeting }, tip(ACCEPTS)));
            // The answer may be lost: then nobody is at this end.
            if self.random.below(3) > 0 {
                let dialled = self.ends[DIALS].connection.dialled(Box::new(tip(DIALS)), epoch);
                dialled.expect("it wants a link");
                self.wire = wire;
            } else {
                drop(tip(DIALS));
            }
        }
        if !self.attempts.is_empty() && self.random.below(2) == 0 {
            let (greeting, tip) = self.attempts.swap_remove(self.random.below(self.attempts.len()));
            let before = self.ends[ACCEPTS].connection.session().epoch();
            let taken = self.ends[ACCEPTS].connection.accept(Box::new(tip), greeting, self.now);
            assert_eq!(taken.is_ok(), greeting.epoch > before, "{greeting:?} after {before}");
        }
    }

    fn step(&mut self) {
        let side = self.random.below(2);
        match self.random.below(9) {
            0 | 1 => self.queue(side),
            2..=4 => self.flush(side),
            5..=7 => self.take(side),
            _ => self.mend(),
        }
        self.now += 1;
    }

    fn is_settled(&self) -> bool {
        let [one, other] = &self.ends;
        let idle = |end: &End| {
            let session = end.connection.session();
            !session.has_pending() && session.in_trouble_since().is_none()
        };
        one.got == other.sent && other.got == one.sent && idle(one) && idle(other)
    }
}

fn wire(seed: u64) -> Arc<Mutex<Wire>> {
    Arc::new(Mutex::new(Wire {
        random: Random::seeded(seed ^ 0x5eed),
        bytes: Default::default(),
        cut: false,
        blind: [0; 2],
    }))
}

/// One case: how many frames came, over how many links.
fn simulate(seed: u64) -> (u64, u64) {
    let mut scene = Scene::new(seed);
    let calm = 10 + scene.random.below(150);
    for _ in 0..STEPS {
        scene.step();
        if scene.random.below(calm) == 0 {
            scene.wire.lock().expect("no panic").cut();
        }
    }
    for _ in 0..SETTLE_MAX {
        if scene.is_settled() {
            let [one, other] = &scene.ends;
            let resumed = other.connection.counts().resumed;
            return (one.got + other.got, resumed);
        }
        let side = scene.random.below(2);
        scene.flush(side);
        scene.take(side);
        scene.mend();
    }
    panic!("it does not settle");
}

#[test]
fn every_frame_and_page_comes_once_and_in_order_over_links_that_break() {
    let seeds = match std::env::var("TESSERA_SEED").ok() {
        Some(text) => {
            let seed = text.parse().expect("a number");
            seed..=seed
        }
        None => 1..=CASES,
    };
    let (mut frames, mut links) = (0, 0);
    for seed in seeds.clone() {
        let case = std::panic::catch_unwind(|| simulate(seed));
        let (got, resumed) = case.unwrap_or_else(|_| panic!("TESSERA_SEED={seed}"));
        (frames, links) = (frames + got, links + resumed);
    }
    println!("TESSERA_SEED={seeds:?}: {frames} frames, {links} new links");
    assert!(seeds.clone().count() == 1 || frames > 40 * CASES && links > 3 * CASES);
}
