//! Who runs a vCPU while it moves.
//!
//! One [`Handover`] per vCPU and node, pure: events in, actions out. Two phases under an epoch, four messages:
//!
//! ```text
//! source                               destination
//!   | -- Prepare(epoch) ----------------> |   may it come?  (the vCPU runs at the source)
//!   | <------------- Ready or Refused --- |
//!   freeze, capture, become proxy
//!   | -- Commit(epoch, context) --------> |   from here on only the destination may run it
//!   |                                  restore, run
//!   | <----------- Done (or Refused) ---- |   the source forgets its copy (or takes it back)
//! ```
//!
//! At every moment at most one node may run the vCPU. A move that is refused or whose destination is lost
//! before `Commit` was sent leaves it running at the source. A destination that is lost between `Commit` and
//! `Done` may have run it: nobody may run it again, so the guest is stopped ([`Action::Stop`]).

#[cfg(test)]
mod explore;

use serde::{Deserialize, Serialize};
use tessera_dsm::NodeId;
use thiserror::Error;

use crate::VcpuId;

/// Numbers the stays of a vCPU: each move that is committed makes the next. A message with another epoch than
/// the one under way is stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// Why a move did not happen. The vCPU runs where it ran.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Orders go to the node where the vCPU is.
    #[error("the vCPU is not on this node")]
    NotHere,
    /// It is there already.
    #[error("the vCPU is on that node already")]
    AlreadyThere,
    /// One move of a vCPU at a time.
    #[error("the vCPU is being moved already")]
    Busy,
    /// No such node in this guest.
    #[error("the guest has no such node")]
    NoSuchNode,
    /// The link to the destination is down.
    #[error("the destination was lost")]
    DestinationLost,
    /// The destination does not take vCPUs.
    #[error("the destination takes no vCPUs: {0}")]
    Closed(String),
    /// The state could not be read here.
    #[error("the vCPU could not be stopped: {0}")]
    Freeze(String),
    /// The state could not be written there.
    #[error("the destination could not take the vCPU's state: {0}")]
    Adopt(String),
    /// The destination did not answer in time.
    #[error("the destination did not answer")]
    NoAnswer,
}

/// What source and destination say to each other. `C` is the context that travels.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum MoveMessage<C> {
    /// May the vCPU come?
    Prepare(Epoch),
    /// It may.
    Ready(Epoch),
    /// It may not, or its state could not be taken.
    Refused(Epoch, Refusal),
    /// Here it is.
    Commit(Epoch, C),
    /// It runs here; it rested for so many microseconds.
    Done(Epoch, u32),
    /// The source no longer wants what it prepared.
    Abort(Epoch),
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event<C> {
    /// Somebody wants the vCPU to move.
    Order(NodeId),
    /// A peer said something about this vCPU.
    Message(NodeId, MoveMessage<C>),
    /// [`Action::Freeze`] is done: the vCPU rests, and this is its context.
    Frozen(C),
    /// [`Action::Freeze`] failed: the vCPU runs on.
    NotFrozen(Refusal),
    /// [`Action::Adopt`] is done: the vCPU is about to run, after a rest of so many microseconds.
    Adopted(u32),
    /// [`Action::Adopt`] failed: the vCPU does not run here.
    NotAdopted(Refusal),
    /// The link to a peer is gone for good.
    Lost(NodeId),
    /// [`Action::Send`] failed: the peer has not got the whole message, and will not.
    Unsent(NodeId),
    /// The destination has been asked for too long.
    Timeout,
}

/// What the driver must do, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action<C> {
    /// Tell a peer.
    Send(NodeId, MoveMessage<C>),
    /// Stop the vCPU, capture it, and answer with [`Event::Frozen`] or [`Event::NotFrozen`].
    Freeze,
    /// Make the resident vCPU a proxy: its context is on its way.
    BecomeProxy,
    /// Load the context and run, and answer with [`Event::Adopted`] or [`Event::NotAdopted`].
    Adopt(C),
    /// Load the context again and run on here: the move failed after the freeze.
    TakeBack(C),
    /// The order's outcome.
    Report(Result<Arrival, Refusal>),
    /// Nobody may run the vCPU any more.
    Stop(NodeId),
}

/// A move that succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// Where the vCPU runs now.
    pub node: NodeId,
    /// The number of its stay there.
    pub epoch: Epoch,
    /// How long it rested, from its last instruction at the source to its first at the destination, in
    /// microseconds of guest time.
    pub blackout_us: u32,
}

/// A vCPU's state as one node sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum State<C> {
    /// Runs here.
    Here,
    /// Runs here; the destination has been asked.
    Asking(NodeId),
    /// Runs here until it is frozen; the destination is ready.
    Freezing(NodeId),
    /// Rests here until the destination says that it runs there.
    Committed(NodeId, C),
    /// Is a proxy here.
    Elsewhere,
    /// Is a proxy here, and may come from that node.
    Expected(NodeId, Epoch),
    /// Is being loaded here.
    Adopting(NodeId, Epoch),
    /// May run nowhere.
    Stopped,
}

/// The hand-over of one vCPU, as one node sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Handover<C> {
    vcpu: VcpuId,
    /// Number of the present (or last known) stay.
    epoch: Epoch,
    state: State<C>,
    /// Why this node takes no vCPUs, if it takes none.
    closed: Option<String>,
}

impl<C: Clone> Handover<C> {
    /// A vCPU that runs here, or elsewhere, from the start.
    pub fn new(vcpu: VcpuId, here: bool) -> Self {
        let state = if here { State::Here } else { State::Elsewhere };
        Handover { vcpu, epoch: Epoch(0), state, closed: None }
    }

    /// The vCPU.
    pub fn vcpu(&self) -> VcpuId {
        self.vcpu
    }

    /// The epoch of the vCPU's present stay, as far as this node knows.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the vCPU may execute guest instructions on this node now.
    pub fn may_run(&self) -> bool {
        matches!(self.state, State::Here | State::Asking(_) | State::Freezing(_))
    }

    /// Whether no move of the vCPU is under way here.
    pub fn at_rest(&self) -> bool {
        matches!(self.state, State::Here | State::Elsewhere | State::Stopped)
    }

    /// From now on this node refuses to take the vCPU, with that reason (a host that is being drained), or
    /// takes it again.
    pub fn close(&mut self, reason: Option<String>) {
        self.closed = reason;
    }

    /// Notes that the vCPU has begun a stay at another node, as all nodes are told after a move.
    pub fn learn(&mut self, epoch: Epoch) {
        if matches!(self.state, State::Elsewhere) && epoch > self.epoch {
            self.epoch = epoch;
        }
    }

    /// Takes an event; appends what must be done.
    pub fn handle(&mut self, event: Event<C>, actions: &mut Vec<Action<C>>) {
        match event {
            Event::Order(to) => self.order(to, actions),
            Event::Message(from, message) => self.message(from, message, actions),
            Event::Frozen(context) => self.frozen(context, actions),
            Event::NotFrozen(why) => {
                if let State::Freezing(to) = self.state {
                    self.state = State::Here;
                    actions.push(Action::Send(to, MoveMessage::Abort(self.epoch.next())));
                    actions.push(Action::Report(Err(why)));
                }
            }
            Event::Adopted(blackout_us) => {
                if let State::Adopting(from, epoch) = self.state {
                    self.state = State::Here;
                    self.epoch = epoch;
                    actions.push(Action::Send(from, MoveMessage::Done(epoch, blackout_us)));
                }
            }
            Event::NotAdopted(why) => {
                if let State::Adopting(from, epoch) = self.state {
                    self.state = State::Elsewhere;
                    actions.push(Action::Send(from, MoveMessage::Refused(epoch, why)));
                }
            }
            Event::Lost(peer) => self.lost(peer, actions),
            Event::Unsent(peer) => self.unsent(peer, actions),
            Event::Timeout => {
                if let State::Asking(to) = self.state {
                    self.state = State::Here;
                    actions.push(Action::Send(to, MoveMessage::Abort(self.epoch.next())));
                    actions.push(Action::Report(Err(Refusal::NoAnswer)));
                }
            }
        }
    }

    fn order(&mut self, to: NodeId, actions: &mut Vec<Action<C>>) {
        let refusal = match self.state {
            State::Here => {
                self.state = State::Asking(to);
                actions.push(Action::Send(to, MoveMessage::Prepare(self.epoch.next())));
                return;
            }
            State::Elsewhere | State::Expected(..) | State::Stopped => Refusal::NotHere,
            State::Asking(_) | State::Freezing(_) | State::Committed(..) | State::Adopting(..) => {
                Refusal::Busy
            }
        };
        actions.push(Action::Report(Err(refusal)));
    }

    fn message(&mut self, from: NodeId, message: MoveMessage<C>, actions: &mut Vec<Action<C>>) {
        let next = self.epoch.next();
        match (&self.state, message) {
            // The destination's side. An older expectation gives way to a newer one.
            (State::Elsewhere | State::Expected(..), MoveMessage::Prepare(epoch)) => {
                let answer = match &self.closed {
                    Some(reason) => MoveMessage::Refused(epoch, Refusal::Closed(reason.clone())),
                    None => {
                        self.state = State::Expected(from, epoch);
                        MoveMessage::Ready(epoch)
                    }
                };
                actions.push(Action::Send(from, answer));
            }
            (_, MoveMessage::Prepare(epoch)) => {
                actions.push(Action::Send(from, MoveMessage::Refused(epoch, Refusal::Busy)));
            }
            (&State::Expected(who, epoch), MoveMessage::Commit(named, context))
                if who == from && named == epoch =>
            {
                self.state = State::Adopting(from, epoch);
                actions.push(Action::Adopt(context));
            }
            (_, MoveMessage::Commit(epoch, _)) => {
                let why = Refusal::Adopt("it was not expected".into());
                actions.push(Action::Send(from, MoveMessage::Refused(epoch, why)));
            }
            (&State::Expected(who, epoch), MoveMessage::Abort(named)) if who == from && named == epoch => {
                self.state = State::Elsewhere;
            }
            // The source's side.
            (&State::Asking(to), MoveMessage::Ready(epoch)) if to == from && epoch == next => {
                self.state = State::Freezing(to);
                actions.push(Action::Freeze);
            }
            (&State::Asking(to), MoveMessage::Refused(epoch, why)) if to == from && epoch == next => {
                self.state = State::Here;
                actions.push(Action::Report(Err(why)));
            }
            (State::Committed(to, _), MoveMessage::Done(epoch, blackout_us))
                if *to == from && epoch == next =>
            {
                self.state = State::Elsewhere;
                self.epoch = epoch;
                actions.push(Action::Report(Ok(Arrival { node: from, epoch, blackout_us })));
            }
            (State::Committed(to, context), MoveMessage::Refused(epoch, why))
                if *to == from && epoch == next =>
            {
                actions.push(Action::TakeBack(context.clone()));
                actions.push(Action::Report(Err(why)));
                self.state = State::Here;
                // The refused epoch is spent: no late message of it may count.
                self.epoch = next;
            }
            // Anything else is stale.
            _ => {}
        }
    }

    fn frozen(&mut self, context: C, actions: &mut Vec<Action<C>>) {
        let State::Freezing(to) = self.state else { return };
        self.state = State::Committed(to, context.clone());
        actions.push(Action::Send(to, MoveMessage::Commit(self.epoch.next(), context)));
        actions.push(Action::BecomeProxy);
    }

    /// A context that never left is taken back; for all else a message that was not sent is as a peer that is lost.
    fn unsent(&mut self, peer: NodeId, actions: &mut Vec<Action<C>>) {
        match &self.state {
            State::Committed(to, context) if *to == peer => {
                actions.push(Action::TakeBack(context.clone()));
                actions.push(Action::Report(Err(Refusal::DestinationLost)));
                self.state = State::Here;
                self.epoch = self.epoch.next();
            }
            _ => self.lost(peer, actions),
        }
    }

    fn lost(&mut self, peer: NodeId, actions: &mut Vec<Action<C>>) {
        match &self.state {
            State::Asking(to) if *to == peer => {
                self.state = State::Here;
                actions.push(Action::Report(Err(Refusal::DestinationLost)));
            }
            // Freezing goes on to Frozen; the driver's send fails and this event comes again.
            State::Freezing(to) if *to == peer => {
                self.state = State::Here;
                actions.push(Action::Report(Err(Refusal::DestinationLost)));
            }
            State::Committed(to, _) if *to == peer => {
                self.state = State::Stopped;
                actions.push(Action::Report(Err(Refusal::DestinationLost)));
                actions.push(Action::Stop(peer));
            }
            State::Expected(from, _) if *from == peer => self.state = State::Elsewhere,
            _ => {}
        }
    }
}
