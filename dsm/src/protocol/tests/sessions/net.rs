//! What is between two nodes: a session at each end, links that come and go, and attempts to make them.

use std::collections::VecDeque;

use super::mistakes::Mistake;
use crate::ids::Gfn;
use crate::link::session::{Epoch, Greeting, Refused, Session, Side, Stamp, GREETING_BYTES};
use crate::liveness::Kind;
use crate::protocol::tests::host::Packet;

/// The node with the lower number waits for the other to dial.
pub const ACCEPTS: usize = 0;
/// The node that dials.
pub const DIALS: usize = 1;
/// How much may happen to links.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    /// Links that break by themselves; as many as there are if not said.
    pub cuts: Option<u8>,
    /// Most attempts under way; with two, one is given up for the other, which may overtake it.
    pub attempts: usize,
}

/// A frame: one byte of the session's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Frame {
    stamp: Stamp,
    /// What it says; nothing if it only confirms.
    packet: Option<Packet>,
    /// A link has taken it, where that makes a mistake possible.
    was_taken: bool,
}

/// What comes over a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Unit {
    Greeting(Greeting),
    Frame(Frame),
}

/// A link, or one that an attempt would make.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Wire {
    epoch: Epoch,
    /// On its way, by the side that it goes to.
    units: [VecDeque<Unit>; 2],
    /// Nothing more gets on it. What is on it may come or not.
    cut: bool,
}

/// One side.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct End {
    session: Session,
    /// The link that it uses.
    wire: Option<Epoch>,
    /// The frames that the session keeps.
    kept: VecDeque<Frame>,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Net {
    ends: [End; 2],
    wires: Vec<Wire>,
    /// Attempts that have not come to the other side.
    attempts: Vec<Greeting>,
    /// The attempt that the dialler waits for.
    current: Option<Epoch>,
    /// The latest attempt's.
    last: Epoch,
    bounds: Bounds,
}

/// What may happen to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// A side takes the next thing that has come.
    Take { side: usize },
    /// A link breaks.
    Cut { epoch: Epoch },
    /// A side notices that its link is broken.
    Notice { side: usize },
    /// The dialler makes an attempt.
    Dial,
    /// The same, while it waits for another, which it gives up.
    DialAgain,
    /// An attempt comes to nothing.
    Lose { epoch: Epoch },
    /// An attempt comes to the other side.
    Arrive { epoch: Epoch },
    /// The dialler hears that its attempt got through.
    Connected,
}

impl Move {
    /// Who makes it happen. (The numbers below 16 are the nodes' own duties.)
    pub fn kind(self) -> Kind {
        match self {
            Move::Take { side } => Kind::Duty(16 + side as u8),
            Move::Notice { side } => Kind::Duty(18 + side as u8),
            Move::Dial => Kind::Duty(20),
            Move::Arrive { .. } => Kind::Duty(21),
            Move::Connected => Kind::Duty(22),
            Move::Cut { .. } | Move::DialAgain | Move::Lose { .. } => Kind::Seldom,
        }
    }
}

impl Net {
    /// A session with its first link.
    pub fn new(bounds: Bounds) -> Self {
        let end = |side| End { session: Session::new(side), wire: Some(Epoch::FIRST), kept: VecDeque::new() };
        let wire = Wire { epoch: Epoch::FIRST, units: Default::default(), cut: false };
        let ends = [end(Side::Accepts), end(Side::Dials)];
        Net { ends, wires: vec![wire], attempts: vec![], current: None, last: Epoch::FIRST, bounds }
    }

    fn wire(&self, side: usize) -> Option<&Wire> {
        let epoch = self.ends[side].wire?;
        self.wires.iter().find(|wire| wire.epoch == epoch)
    }

    fn wire_mut(&mut self, side: usize) -> Option<&mut Wire> {
        let epoch = self.ends[side].wire?;
        self.wires.iter_mut().find(|wire| wire.epoch == epoch)
    }

    fn cut(&mut self, epoch: Epoch) {
        self.wires.iter_mut().filter(|wire| wire.epoch == epoch).for_each(|wire| wire.cut = true);
    }

    /// What may happen now.
    pub fn moves(&self, mistake: Option<Mistake>) -> Vec<Move> {
        let mut moves = vec![];
        for side in [ACCEPTS, DIALS] {
            let Some(wire) = self.wire(side) else { continue };
            if !wire.units[side].is_empty() {
                moves.push(Move::Take { side });
            }
            if wire.cut {
                moves.push(Move::Notice { side });
            }
        }
        if self.bounds.cuts != Some(0) {
            let whole = self.wires.iter().filter(|wire| !wire.cut);
            moves.extend(whole.map(|wire| Move::Cut { epoch: wire.epoch }));
        }
        moves.extend(
            self.attempts
                .iter()
                .flat_map(|&Greeting { epoch, .. }| [Move::Arrive { epoch }, Move::Lose { epoch }]),
        );
        let dials = self.ends[DIALS].session.redial().is_some() && mistake != Some(Mistake::NobodyDialsAgain);
        match self.current {
            _ if !dials || self.attempts.len() >= self.bounds.attempts => {}
            None => moves.push(Move::Dial),
            Some(_) => moves.push(Move::DialAgain),
        }
        if self.current.is_some() {
            moves.push(Move::Connected);
        }
        moves
    }

    /// Something happens; gives what has come for the node at the side that takes it.
    pub fn take(&mut self, step: Move, mistake: Option<Mistake>) -> Result<Option<Packet>, String> {
        match step {
            Move::Take { side } => return self.take_unit(side, mistake),
            Move::Cut { epoch } => {
                self.bounds.cuts = self.bounds.cuts.map(|left| left - 1);
                self.cut(epoch);
            }
            Move::Notice { side } => {
                self.ends[side].session.broke(0);
                self.ends[side].wire = None;
            }
            Move::Dial | Move::DialAgain => self.dial(mistake)?,
            Move::Lose { epoch } => {
                self.attempts.retain(|attempt| attempt.epoch != epoch);
                self.cut(epoch);
            }
            Move::Arrive { epoch } => self.arrive(epoch, mistake)?,
            Move::Connected => self.connected()?,
        }
        self.come_to_order(mistake);
        Ok(None)
    }

    fn take_unit(&mut self, side: usize, mistake: Option<Mistake>) -> Result<Option<Packet>, String> {
        let Some(unit) = self.wire_mut(side).and_then(|wire| wire.units[side].pop_front()) else {
            return Ok(None);
        };
        let session = &mut self.ends[side].session;
        let refused = |error: &dyn std::fmt::Display| format!("side {side}: {error}");
        match (unit, session.expects_greeting()) {
            (Unit::Greeting(greeting), true) => {
                session.greeted(greeting).map_err(|error| refused(&error))?;
                Ok(None)
            }
            (Unit::Frame(Frame { mut stamp, packet, .. }), false) => {
                if mistake.is_some_and(Mistake::overlooks_positions) {
                    stamp.seq = session.received_bytes() as u32;
                }
                session.take_frame(stamp, 1).map_err(|error| refused(&error))?;
                Ok(packet)
            }
            (unit, _) => Err(format!("side {side} takes {unit:?} for something else")),
        }
    }

    fn dial(&mut self, mistake: Option<Mistake>) -> Result<(), String> {
        let first = self.ends[DIALS].session.redial().ok_or("the dialler does not want to dial")?;
        if let Some(given_up) = self.current.take() {
            self.cut(given_up);
        }
        let epoch = if self.last >= first.epoch { self.last.next() } else { first.epoch };
        let received = Mistake::said(mistake, first.received);
        (self.last, self.current) = (epoch, Some(epoch));
        self.wires.push(Wire { epoch, units: Default::default(), cut: false });
        self.attempts.push(Greeting { epoch, received });
        Ok(())
    }

    fn arrive(&mut self, epoch: Epoch, mistake: Option<Mistake>) -> Result<(), String> {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.epoch == epoch) else { return Ok(()) };
        let greeting = self.attempts.remove(at);
        let left = self.wire(ACCEPTS).map(|wire| wire.units[ACCEPTS].clone()).unwrap_or_default();
        let end = &mut self.ends[ACCEPTS];
        let newer = epoch > end.session.epoch();
        match end.session.accept(greeting, 0) {
            Ok(()) if newer => end.wire = Some(epoch),
            // It closes it.
            Err(Refused::Stale(_)) if !newer => self.cut(epoch),
            other => return Err(format!("{epoch}: {other:?}")),
        }
        if newer && mistake.is_some_and(Mistake::keeps_the_old_link) {
            self.wire_mut(ACCEPTS).into_iter().for_each(|wire| wire.units[ACCEPTS].extend(&left));
        }
        Ok(())
    }

    fn connected(&mut self) -> Result<(), String> {
        let Some(epoch) = self.current.take() else { return Ok(()) };
        let end = &mut self.ends[DIALS];
        end.wire = Some(epoch);
        end.session.dialled(epoch).map_err(|stale| format!("the dialler: {stale}"))
    }

    /// A node has something to say to the other.
    pub fn send(&mut self, from: usize, packet: Packet, mistake: Option<Mistake>) -> Result<(), String> {
        let forgets = mistake == Some(Mistake::NothingIsKeptWithoutALink);
        match forgets && !self.ends[from].session.has_link() {
            true => Ok(()),
            false => self.queue(from, Some(packet)),
        }
    }

    fn queue(&mut self, side: usize, packet: Option<Packet>) -> Result<(), String> {
        let end = &mut self.ends[side];
        let stamp = end.session.stamp();
        end.session.queue(&[0]).map_err(|error| error.to_string())?;
        end.kept.push_back(Frame { stamp, packet, was_taken: false });
        Ok(())
    }

    /// What a driver does after each step: confirms what it must, gives the links what they can take. And what nobody can name
    /// any more is forgotten.
    pub fn come_to_order(&mut self, mistake: Option<Mistake>) {
        for side in [ACCEPTS, DIALS] {
            if self.ends[side].session.owes_confirmation() {
                // (There is room: nothing is ever near the limit.)
                let _ = self.queue(side, None);
            }
            self.flush(side, mistake);
        }
        if mistake.is_none() {
            self.forget_what_was_heard();
        }
        self.tidy();
        self.count_from_the_oldest();
    }

    fn flush(&mut self, side: usize, mistake: Option<Mistake>) {
        let end = &mut self.ends[side];
        let released = end.kept.len().saturating_sub(end.session.unconfirmed_bytes());
        end.kept.drain(..released);
        let [greeting, first, second] = end.session.pending();
        let frames = first.len() + second.len();
        let taken = greeting.len() + frames;
        let answer = greeting.first_chunk::<GREETING_BYTES>().and_then(|bytes| Greeting::decode(bytes).ok());
        let answer = answer.filter(|_| mistake != Some(Mistake::NoAnswerToADialler));
        let answer = answer.map(|said| Greeting { received: Mistake::said(mistake, said.received), ..said });
        end.session.took(taken);
        let mut units: Vec<Unit> = answer.map(Unit::Greeting).into_iter().collect();
        let from = end.kept.len().saturating_sub(frames);
        for frame in end.kept.range_mut(from..) {
            if !frame.was_taken {
                units.push(Unit::Frame(*frame));
            }
            frame.was_taken = mistake == Some(Mistake::NothingIsSentAgain);
        }
        if let Some(wire) = self.wire_mut(side).filter(|wire| !wire.cut) {
            wire.units[1 - side].extend(units);
        }
    }

    /// Forgets what was said in frames that have come: one that came again would be seen by its position.
    fn forget_what_was_heard(&mut self) {
        for from in [ACCEPTS, DIALS] {
            let heard = self.ends[1 - from].session.received_bytes() as u32;
            let kept = self.ends[from].kept.iter_mut().filter(|frame| frame.stamp.seq < heard);
            kept.for_each(|frame| frame.packet = None);
        }
    }

    /// Forgets links that nobody uses or will use. One whose one side uses another one is cut.
    fn tidy(&mut self) {
        let Net { ends, wires, attempts, current, .. } = self;
        let coming = |epoch| attempts.iter().any(|attempt| attempt.epoch == epoch);
        for wire in &mut *wires {
            let dials = ends[DIALS].wire == Some(wire.epoch) || *current == Some(wire.epoch);
            let accepts = ends[ACCEPTS].wire == Some(wire.epoch) || coming(wire.epoch);
            wire.cut |= !(dials && accepts);
            // What is for a side that does not use the link any more never comes.
            for (side, uses) in [(DIALS, dials), (ACCEPTS, accepts)] {
                if !uses {
                    wire.units[side].clear();
                }
            }
        }
        wires.retain(|wire| {
            let used = ends.iter().any(|end| end.wire == Some(wire.epoch));
            used || coming(wire.epoch) || *current == Some(wire.epoch)
        });
    }

    /// Counts positions from the oldest frame that is kept, and epochs from the oldest in use.
    fn count_from_the_oldest(&mut self) {
        let mut epochs: Vec<Epoch> = self.wires.iter().map(|wire| wire.epoch).collect();
        epochs.extend(self.ends.iter().map(|end| end.session.epoch()));
        epochs.extend(self.attempts.iter().map(|attempt| attempt.epoch));
        epochs.extend(self.current.into_iter().chain([self.last]));
        epochs.sort_unstable();
        epochs.dedup();
        let rank = |epoch: Epoch| Epoch(1 + epochs.iter().filter(|&&other| other < epoch).count() as u32);
        let base = [ACCEPTS, DIALS].map(|side| self.ends[side].session.first_unconfirmed());
        for side in [ACCEPTS, DIALS] {
            let End { session, wire, kept } = &mut self.ends[side];
            let epoch = rank(session.epoch());
            session.count_from(base[side], base[1 - side], epoch);
            *wire = wire.map(rank);
            kept.iter_mut().for_each(|frame| recount(frame, base[side], base[1 - side]));
        }
        for wire in &mut self.wires {
            wire.epoch = rank(wire.epoch);
            for to in [ACCEPTS, DIALS] {
                for unit in &mut wire.units[to] {
                    match unit {
                        Unit::Frame(frame) => recount(frame, base[1 - to], base[to]),
                        Unit::Greeting(greeting) => {
                            greeting.epoch = rank(greeting.epoch);
                            greeting.received = greeting.received.wrapping_sub(base[to]);
                        }
                    }
                }
            }
        }
        let known = self.ends[ACCEPTS].session.epoch();
        for attempt in &mut self.attempts {
            attempt.epoch = rank(attempt.epoch);
            // (Of one that comes too late nobody looks at it.)
            let late = attempt.epoch <= known;
            attempt.received = if late { 0 } else { attempt.received.wrapping_sub(base[ACCEPTS]) };
        }
        (self.current, self.last) = (self.current.map(rank), rank(self.last));
    }

    /// The page's bytes are not the latest any more, wherever they are on their way.
    pub fn outdate(&mut self, gfn: Gfn) {
        let kept = self.ends.iter_mut().flat_map(|end| &mut end.kept);
        let under_way = self.wires.iter_mut().flat_map(|wire| wire.units.iter_mut().flatten());
        let under_way = under_way.filter_map(|unit| match unit {
            Unit::Frame(frame) => Some(frame),
            Unit::Greeting(_) => None,
        });
        for packet in kept.chain(under_way).filter_map(|frame| frame.packet.as_mut()) {
            if packet.message.gfn() == gfn {
                packet.bytes = packet.bytes.map(|_| 0);
            }
        }
    }

    /// Whether every node has heard all that the other has said.
    pub fn all_has_come(&self) -> bool {
        [ACCEPTS, DIALS].into_iter().all(|from| {
            let heard = self.ends[1 - from].session.received_bytes() as u32;
            self.ends[from].kept.iter().all(|frame| frame.packet.is_none() || frame.stamp.seq < heard)
        })
    }

    /// Whether there is a link that works, and nothing on it.
    pub fn rests(&self) -> bool {
        let [one, other] = &self.ends;
        let shared = one.wire.is_some() && one.wire == other.wire && self.attempts.is_empty();
        let wire = self.wire(ACCEPTS).filter(|_| shared);
        wire.is_some_and(|wire| !wire.cut && wire.units.iter().all(VecDeque::is_empty))
            && !one.session.expects_greeting()
            && !other.session.expects_greeting()
    }
}

/// A frame's positions, counted from others on. What it confirms that has been confirmed long since says nothing.
fn recount(frame: &mut Frame, own: u64, others: u64) {
    frame.stamp.seq = frame.stamp.seq.wrapping_sub(own as u32);
    let ack = frame.stamp.ack.wrapping_sub(others as u32);
    frame.stamp.ack = if (ack as i32) < 0 { 0 } else { ack };
}
