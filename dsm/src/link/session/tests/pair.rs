//! Two sides of a session, the links between them, and what must hold.

use std::collections::VecDeque;

use super::super::{Epoch, Greeting, Refused, Session, Side, Stamp, GREETING_BYTES};
use crate::protocol::Micros;

/// Bytes of a frame of these tests without its filler: its length, its stamp, its number.
pub const FRAME_BYTES: usize = 12;
/// The number of a frame that carries nothing.
const IDLE: u16 = u16::MAX;

/// The side that dials, as an index.
pub const DIALS: usize = 0;
/// The side that accepts.
pub const ACCEPTS: usize = 1;

/// One connection, as the network sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wire {
    pub epoch: Epoch,
    /// Bytes on their way, by the side that they go to.
    pub bytes: [VecDeque<u8>; 2],
    /// Nothing more gets through; what is on its way may or may not.
    pub cut: bool,
}

/// One side: its session, and what stands around it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct End {
    pub session: Session,
    /// The connection that it uses.
    pub wire: Option<Epoch>,
    /// Frames that it has queued; the next one has this number.
    pub queued: u16,
    /// Frames that it has got; the next one must have this number.
    pub got: u16,
    /// Since when it should say that it is in trouble.
    trouble: Option<Micros>,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pair {
    pub ends: [End; 2],
    /// By epoch.
    pub wires: Vec<Wire>,
    /// Attempts that have not come to the other side, and perhaps never will.
    pub attempts: Vec<Greeting>,
    /// The attempt that the dialler waits for.
    pub current: Option<Epoch>,
    /// The greatest epoch that an attempt had.
    last: Epoch,
    /// The greatest epoch that was accepted.
    accepted: Epoch,
    pub now: Micros,
}

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A side has a frame to send, with so many bytes of filler.
    Queue { side: usize, filler: usize },
    /// A side gives its link at most so many bytes.
    Send { side: usize, most: usize },
    /// A side takes what has come: one frame, or a greeting.
    Take { side: usize },
    /// A side confirms, if it must.
    Confirm { side: usize },
    /// A connection breaks.
    Cut { epoch: Epoch },
    /// A side notices that.
    Notice { side: usize },
    /// The dialler makes an attempt; if one is under way, it is given up.
    Dial,
    /// An attempt comes to the other side.
    Arrive { epoch: Epoch },
    /// The dialler learns that its attempt got through.
    Connected,
    /// The same of an attempt that is no newer than the link that it has or had.
    ConnectedLate { epoch: Epoch },
}

/// A mistake that is built in around each step.
#[derive(Clone, Copy)]
pub struct Fault {
    pub name: &'static str,
    /// May change what the step finds.
    pub before: fn(&Step, &mut Pair),
    /// May change what it leaves; sees what it found.
    pub after: fn(&Step, &Pair, &mut Pair),
}

impl Pair {
    /// Two sides with a link that works.
    pub fn new() -> Self {
        let end = |side| End {
            session: Session::new(side),
            wire: Some(Epoch::FIRST),
            queued: 0,
            got: 0,
            trouble: None,
        };
        Pair {
            ends: [end(Side::Dials), end(Side::Accepts)],
            wires: vec![Wire { epoch: Epoch::FIRST, bytes: Default::default(), cut: false }],
            attempts: vec![],
            current: None,
            last: Epoch::FIRST,
            accepted: Epoch::FIRST,
            now: 0,
        }
    }

    /// Both sides as if so many bytes had gone both ways already.
    pub fn starting_at(position: u64) -> Self {
        let mut pair = Pair::new();
        for end in &mut pair.ends {
            let session = &mut end.session;
            session.unconfirmed.set_position(position);
            session.sent = position;
            (session.received, session.told) = (position, position);
        }
        pair
    }

    /// The greatest epoch that an attempt had.
    pub fn last_epoch(&self) -> Epoch {
        self.last
    }

    pub fn wire(&self, side: usize) -> Option<&Wire> {
        let epoch = self.ends[side].wire?;
        self.wires.iter().find(|wire| wire.epoch == epoch)
    }

    pub fn wire_mut(&mut self, side: usize) -> Option<&mut Wire> {
        let epoch = self.ends[side].wire?;
        self.wires.iter_mut().find(|wire| wire.epoch == epoch)
    }

    /// Carries a step out, with a mistake if one is given.
    ///
    /// # Errors
    /// What went wrong.
    pub fn step(&mut self, step: Step, fault: Option<Fault>) -> Result<(), String> {
        let Some(fault) = fault else { return self.carry_out(step) };
        (fault.before)(&step, self);
        let before = self.clone();
        self.carry_out(step)?;
        (fault.after)(&step, &before, self);
        self.check_trouble()
    }

    fn carry_out(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Queue { side, filler } => self.queue(side, filler),
            Step::Send { side, most } => self.send(side, most),
            Step::Take { side } => self.take(side),
            Step::Confirm { side } => {
                if self.ends[side].session.owes_confirmation() {
                    return self.queue_numbered(side, IDLE, 0);
                }
                Ok(())
            }
            Step::Cut { epoch } => {
                self.wires.iter_mut().filter(|wire| wire.epoch == epoch).for_each(|wire| wire.cut = true);
                Ok(())
            }
            Step::Notice { side } => {
                let end = &mut self.ends[side];
                end.session.broke(self.now);
                end.trouble.get_or_insert(self.now);
                end.wire = None;
                Ok(())
            }
            Step::Dial => self.dial(),
            Step::Arrive { epoch } => self.arrive(epoch),
            Step::Connected => self.connected(),
            Step::ConnectedLate { epoch } => match self.ends[DIALS].session.dialled(epoch) {
                Ok(()) => Err(format!("{epoch} was over, and is taken")),
                Err(_) => Ok(()),
            },
        }?;
        self.tidy();
        self.check_trouble()
    }

    fn queue(&mut self, side: usize, filler: usize) -> Result<(), String> {
        let number = self.ends[side].queued;
        self.ends[side].queued += 1;
        self.queue_numbered(side, number, filler)
    }

    fn queue_numbered(&mut self, side: usize, number: u16, filler: usize) -> Result<(), String> {
        let session = &mut self.ends[side].session;
        let Stamp { seq, ack } = session.stamp();
        let mut frame = ((FRAME_BYTES + filler) as u16).to_le_bytes().to_vec();
        frame.extend(seq.to_le_bytes());
        frame.extend(ack.to_le_bytes());
        frame.extend(number.to_le_bytes());
        let body = |into: &mut [u8]| {
            into.fill(number as u8);
            Ok::<(), ()>(())
        };
        let queued = session.queue_with(&frame, filler, body);
        queued.map(|body| body.unwrap_or(())).map_err(|error| error.to_string())
    }

    fn send(&mut self, side: usize, most: usize) -> Result<(), String> {
        let bytes: Vec<u8> = self.ends[side].session.pending().concat().into_iter().take(most).collect();
        self.ends[side].session.took(bytes.len());
        if let Some(wire) = self.wire_mut(side).filter(|wire| !wire.cut) {
            wire.bytes[1 - side].extend(bytes);
        }
        Ok(())
    }

    fn take(&mut self, side: usize) -> Result<(), String> {
        let Some(unit) = self.unit(side) else { return Ok(()) };
        if let Some(wire) = self.wire_mut(side) {
            wire.bytes[side].drain(..unit.len());
        }
        let end = &mut self.ends[side];
        if end.session.expects_greeting() {
            let greeting = unit.first_chunk::<GREETING_BYTES>().ok_or("a short greeting")?;
            let greeting = Greeting::decode(greeting).map_err(|error| error.to_string())?;
            end.trouble = None;
            return end.session.greeted(greeting).map_err(|error| format!("side {side}: {error}"));
        }
        let field = |at: usize| unit[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let stamp = Stamp { seq: field(2), ack: field(6) };
        let taken = end.session.take_frame(stamp, unit.len());
        taken.map_err(|error| format!("side {side}: {error}"))?;
        end.trouble = None;
        let number = u16::from_le_bytes([unit[10], unit[11]]);
        if unit[FRAME_BYTES..].iter().any(|&byte| byte != number as u8) {
            return Err(format!("side {side}: frame {number} is damaged"));
        }
        if number != IDLE {
            if number != end.got {
                return Err(format!("side {side}: frame {number} came, not {}", end.got));
            }
            end.got += 1;
        }
        Ok(())
    }

    /// The next greeting or whole frame that has come to a side.
    pub fn unit(&self, side: usize) -> Option<Vec<u8>> {
        let bytes = &self.wire(side)?.bytes[side];
        let length = match self.ends[side].session.expects_greeting() {
            true => GREETING_BYTES,
            // (A length of nonsense is a frame that is found to be none.)
            false if bytes.len() >= FRAME_BYTES => {
                usize::from(u16::from_le_bytes([bytes[0], bytes[1]])).max(FRAME_BYTES)
            }
            false => return None,
        };
        (bytes.len() >= length).then(|| bytes.iter().take(length).copied().collect())
    }

    fn dial(&mut self) -> Result<(), String> {
        let first = self.ends[DIALS].session.redial().ok_or("the dialler does not want to dial")?;
        // Nobody is there any more for the attempt before.
        let abandoned = self.current;
        self.wires.iter_mut().filter(|wire| Some(wire.epoch) == abandoned).for_each(|wire| wire.cut = true);
        let epoch = if self.last >= first.epoch { self.last.next() } else { first.epoch };
        self.last = epoch;
        self.current = Some(epoch);
        self.wires.push(Wire { epoch, bytes: Default::default(), cut: false });
        self.attempts.push(Greeting { epoch, ..first });
        Ok(())
    }

    fn arrive(&mut self, epoch: Epoch) -> Result<(), String> {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.epoch == epoch) else { return Ok(()) };
        let greeting = self.attempts.remove(at);
        let end = &mut self.ends[ACCEPTS];
        let newer = epoch > self.accepted;
        match end.session.accept(greeting, self.now) {
            Ok(()) if newer => {
                end.wire = Some(epoch);
                end.trouble.get_or_insert(self.now);
                self.accepted = epoch;
                Ok(())
            }
            Err(Refused::Stale(_)) if !newer => {
                // It closes it.
                self.wires.iter_mut().filter(|wire| wire.epoch == epoch).for_each(|wire| wire.cut = true);
                Ok(())
            }
            other => Err(format!("{epoch} after {}: {other:?}", self.accepted)),
        }
    }

    fn connected(&mut self) -> Result<(), String> {
        let Some(epoch) = self.current.take() else { return Ok(()) };
        let end = &mut self.ends[DIALS];
        end.wire = Some(epoch);
        end.session.dialled(epoch).map_err(|stale| format!("the dialler: {stale}"))
    }

    /// Forgets connections that nobody uses or will use. One whose one side uses another one is cut.
    fn tidy(&mut self) {
        let Pair { ends, wires, attempts, current, .. } = self;
        let used = |side: &End, epoch| side.wire == Some(epoch);
        for wire in &mut *wires {
            let epoch = wire.epoch;
            let [dialler, acceptor] = &*ends;
            let coming = attempts.iter().any(|attempt| attempt.epoch == epoch);
            let dials = used(dialler, epoch) || *current == Some(epoch);
            let accepts = used(acceptor, epoch) || coming;
            wire.cut |= !(dials && accepts);
        }
        wires.retain(|wire| {
            let coming = attempts.iter().any(|attempt| attempt.epoch == wire.epoch);
            ends.iter().any(|end| used(end, wire.epoch)) || coming || *current == Some(wire.epoch)
        });
    }

    /// A side knows whether it is in trouble, and since when.
    fn check_trouble(&self) -> Result<(), String> {
        for (side, end) in self.ends.iter().enumerate() {
            let says = end.session.in_trouble_since();
            if says != end.trouble {
                return Err(format!("side {side} says trouble {says:?}, it is {:?}", end.trouble));
            }
        }
        Ok(())
    }

    /// Whether one good connection is there and nothing is left to do.
    pub fn is_quiet(&self) -> bool {
        let [one, other] = &self.ends;
        let working =
            one.wire.is_some() && one.wire == other.wire && self.wire(DIALS).is_some_and(|w| !w.cut);
        let idle = |side: usize| {
            let session = &self.ends[side].session;
            !session.has_pending() && !session.expects_greeting() && !session.owes_confirmation()
        };
        let empty = self.wires.iter().all(|wire| wire.cut || wire.bytes.iter().all(VecDeque::is_empty));
        working && idle(DIALS) && idle(ACCEPTS) && empty && self.attempts.is_empty()
    }

    /// In quiet, everything has come through, and both sides are content.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_settled(&self) -> Result<(), String> {
        for side in [DIALS, ACCEPTS] {
            let (end, other) = (&self.ends[side], &self.ends[1 - side]);
            if end.got != other.queued {
                return Err(format!("side {side} got {} frames of {}", end.got, other.queued));
            }
            if end.session.in_trouble_since().is_some() {
                return Err(format!("side {side} does not know that the link works"));
            }
            let kept = end.session.unconfirmed_bytes();
            let most = super::super::CONFIRM_BYTES as usize + FRAME_BYTES;
            if kept > most {
                return Err(format!("side {side} keeps {kept} bytes that were received"));
            }
        }
        Ok(())
    }
}
