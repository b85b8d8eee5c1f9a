//! Honest nodes and one liar, joined by links.
//!
//! The liar has a core of its own, which follows the protocol: so there is always something under way in which it has
//! a part. On top of that it drops, repeats, swaps and changes what its core says, says again what it heard or
//! said long ago, and makes frames up. What honest nodes take from it is judged by [`oracle`](super::oracle).

use std::collections::{BTreeSet, VecDeque};

use super::input::Input;
use super::liar::Frame;
use super::oracle::{self, Judgement};
use crate::ids::{Extent, Gfn, NodeId};
use crate::protocol::tests::cluster::{check_page, Shape};
use crate::protocol::tests::host::{Effects, Host, Packet, Pages};
use crate::protocol::{
    Access, Action, Event, HabitPolicy, LeasePolicy, Message, Micros, Node, Rights, Violation,
};
use crate::wire::WireError;

/// All nodes, the liar among them.
pub const NODES: usize = 4;
/// The last one.
pub const LIAR: NodeId = NodeId(NODES as u8 - 1);
/// Frames of long ago that the liar remembers.
const REMEMBERED: usize = 64;

/// More messages than this without anybody asking for anything: they never end.
const DELIVERIES_MAX: usize = 100_000;

/// What happened in a run, as far as it makes runs differ: see [`World::note`].
pub type Features = Vec<u64>;

/// Everything that a run changes.
pub struct World {
    pub pages: Pages,
    pub nodes: Vec<Node>,
    hosts: Vec<Host>,
    /// From i to j at `i * NODES + j`.
    pub links: Vec<VecDeque<Packet>>,
    /// Each page's latest version; the liar's guest writes none.
    latest: Vec<u64>,
    /// By extent (a grant of the whole of it may follow a lie about one page): its coherence rests on what the liar has
    /// said, and it may have lied.
    tainted: Vec<bool>,
    /// By extent: the liar has not said anything about it that its core would not have said.
    straight: Vec<bool>,
    pub now: Micros,
    /// What went to the liar and came from it.
    pub heard: VecDeque<Packet>,
    lent: Vec<(usize, usize)>,
    actions: Vec<Action>,
    pub features: Features,
    /// The kinds of violations that honest nodes have seen.
    pub refusals: BTreeSet<String>,
    mistake: Option<Mistake>,
}

/// A mistake built into the honest nodes, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// Whatever the liar says is taken as the home's word.
    AnybodyIsTheHome,
    /// The number of the transaction is not looked at.
    AnyTransactionFits,
    /// What is refused has begun to be done.
    RefusalsLeaveTraces,
}

impl World {
    /// One extent at home on each node, two pages of each in use.
    pub fn new(lease: LeasePolicy, habits: HabitPolicy, mistake: Option<Mistake>) -> Self {
        let homes: Vec<u8> = (0..NODES as u8).collect();
        let shape = Shape { lease, habits, ..Shape::new(NODES as u8, &homes, 2) };
        let nodes: Vec<Node> = (0..NODES as u8).map(|me| shape.node(me)).collect();
        let hosts = nodes.iter().map(|node| shape.host(node)).collect();
        let pages = shape.pages();
        World {
            pages,
            nodes,
            hosts,
            links: vec![VecDeque::new(); NODES * NODES],
            latest: vec![0; pages.len()],
            // Whatever the home of a page says of it is true, whoever says otherwise.
            tainted: homes.iter().map(|&home| NodeId(home) == LIAR).collect(),
            straight: homes.iter().map(|&home| NodeId(home) != LIAR).collect(),
            now: 0,
            heard: VecDeque::new(),
            lent: Vec::new(),
            actions: Vec::new(),
            features: Vec::new(),
            refusals: BTreeSet::new(),
            mistake,
        }
    }

    pub fn link(&mut self, from: usize, to: usize) -> &mut VecDeque<Packet> {
        &mut self.links[from * NODES + to]
    }

    /// The guest of a node touches a page.
    pub fn access(&mut self, at: usize, index: usize, access: Access) -> Result<(), String> {
        let allowed = self.hosts[at].mappings[index].allows(access);
        if allowed && access == Access::Write && at != LIAR.index() {
            self.latest[index] += 1;
            self.hosts[at].mappings[index].bytes = self.latest[index];
        }
        if allowed {
            return Ok(());
        }
        self.own_event(at, Event::Fault { gfn: self.pages.gfn(index), access })
    }

    /// A device of an honest node borrows a page, or gives the one back that it has had for longest.
    pub fn device(&mut self, at: usize, index: usize, access: Option<Access>) -> Result<(), String> {
        match access {
            Some(access) => self.own_event(at, Event::Borrow { gfn: self.pages.gfn(index), access }),
            None if self.lent.is_empty() => Ok(()),
            None => {
                let (at, index) = self.lent.remove(0);
                let mapping = &mut self.hosts[at].mappings[index];
                // (Which of the two does not matter to the host.)
                match mapping.lent_write > 0 {
                    true => mapping.lent_write -= 1,
                    false => mapping.lent_read -= 1,
                }
                self.own_event(at, Event::Return { gfn: self.pages.gfn(index) })
            }
        }
    }

    /// Time passes, and a node sees to what is due.
    pub fn tick(&mut self, at: usize, span: Micros) -> Result<(), String> {
        self.now += span;
        match self.nodes[at].next_deadline() {
            Some(due) if due <= self.now => self.own_event(at, Event::Tick),
            _ => Ok(()),
        }
    }

    /// The home of an extent, as far as there is one, hands it over. What the liar says of it as its home is true, whoever says
    /// otherwise.
    pub fn hand_over(&mut self, extent: usize, to: usize) -> Result<(), String> {
        let (of, to) = (Extent(extent as u64), NodeId(to as u8));
        let Some(at) = self.nodes.iter().position(|node| node.may_hand_over(of, to)) else { return Ok(()) };
        if to == LIAR {
            (self.tainted[extent], self.straight[extent]) = (true, false);
        }
        self.own_event(at, Event::HandOver { extent: of, to })
    }

    /// The first packet of a link arrives.
    pub fn deliver(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some(packet) = self.link(from, to).pop_front() else { return Ok(()) };
        if from == LIAR.index() || to == LIAR.index() {
            self.remember(packet);
        }
        match from == LIAR.index() {
            true => self.hear_the_liar(to, packet),
            false => self.hear(NodeId(from as u8), to, packet),
        }
    }

    /// The liar has said something about the page's extent that its core would not have said.
    pub fn lied_about(&mut self, gfn: Gfn) {
        if let Some(straight) = self.straight.get_mut((gfn.extent().0) as usize) {
            *straight = false;
        }
    }

    fn is_tainted(&self, index: usize) -> bool {
        self.tainted[index / self.pages.each]
    }

    fn remember(&mut self, packet: Packet) {
        self.heard.push_back(packet);
        if self.heard.len() > REMEMBERED {
            self.heard.pop_front();
        }
    }

    /// Something of the node's own: never refused, but by the core of a liar, whose word counts for nothing.
    fn own_event(&mut self, at: usize, event: Event) -> Result<(), String> {
        let outcome = self.handle(at, event);
        match outcome {
            Ok(()) => self.carry_out(at, None),
            Err(_) if at == LIAR.index() => Ok(()),
            Err(violation) => Err(format!("node {at} refuses its own {event:?}: {violation}")),
        }
    }

    /// A packet from an honest node.
    fn hear(&mut self, from: NodeId, to: usize, packet: Packet) -> Result<(), String> {
        let gfn = packet.message.gfn();
        let outcome = self.handle(to, Event::Message { from, message: packet.message });
        match outcome {
            Ok(()) => self.carry_out(to, packet.bytes),
            Err(_) if to == LIAR.index() => Ok(()),
            Err(Violation::Internal(why)) => Err(format!("node {to} contradicts itself: {why}")),
            Err(_) if self.tainted[gfn.extent().0 as usize] => Ok(()),
            Err(violation) => Err(format!("node {to} refuses what {from} says without any lie: {violation}")),
        }
    }

    /// A packet from the liar.
    fn hear_the_liar(&mut self, to: usize, packet: Packet) -> Result<(), String> {
        let message = packet.message;
        let judgement = oracle::judge(&self.nodes, to, &message);
        let straight = self.straight.get(message.gfn().extent().0 as usize).copied().unwrap_or(false);
        let before = self.nodes[to].clone();
        let outcome = match self.mistake {
            None => self.handle(to, Event::Message { from: LIAR, message }),
            Some(mistake) => self.handle_wrongly(to, message, mistake),
        };
        self.note(&before, &message, &outcome, straight);
        match (outcome, judgement) {
            (Ok(()), Judgement::Impossible) => {
                Err(format!("node {to} takes {message:?} from the liar, which cannot be true"))
            }
            (Ok(()), Judgement::Possible) => self.carry_out(to, packet.bytes),
            (Ok(()), Judgement::OnItsWord) => {
                if !straight {
                    self.tainted[message.gfn().extent().0 as usize] = true;
                }
                self.carry_out(to, packet.bytes)
            }
            (Err(Violation::Internal(why)), _) => Err(format!("node {to} contradicts itself: {why}")),
            (Err(violation), _) if straight => {
                Err(format!("node {to} refuses {message:?}, and the liar has not lied yet: {violation}"))
            }
            (Err(violation), _) => self.check_refusal(to, &before, &message, &violation),
        }
    }

    fn check_refusal(
        &self,
        to: usize,
        before: &Node,
        message: &Message,
        violation: &Violation,
    ) -> Result<(), String> {
        if self.nodes[to] != *before || !self.actions.is_empty() {
            return Err(format!("node {to} refuses {message:?} and has changed by it: {violation}"));
        }
        let text = violation.to_string();
        let named = text.contains(&message.gfn().to_string())
            && (text.contains(&LIAR.to_string()) || matches!(violation, Violation::NotRam { .. }));
        match named {
            true => Ok(()),
            false => Err(format!("the refusal does not say what of whom was refused: {text}")),
        }
    }

    fn handle(&mut self, at: usize, event: Event) -> Result<(), Violation> {
        self.actions.clear();
        self.nodes[at].handle(self.now, event, &mut self.actions)
    }

    /// As a node would that had a mistake.
    fn handle_wrongly(&mut self, at: usize, mut message: Message, mistake: Mistake) -> Result<(), Violation> {
        let gfn = message.gfn();
        let home = self.nodes.iter().position(|node| node.is_home(gfn)).filter(|&home| home != at);
        let under_way = home.and_then(|home| self.nodes[home].directory.transaction(gfn));
        let mut from = LIAR;
        match (mistake, &mut message) {
            (Mistake::AnybodyIsTheHome, _) => from = home.map_or(LIAR, |home| NodeId(home as u8)),
            (
                Mistake::AnyTransactionFits,
                Message::Grant { txn, .. } | Message::Invalidated { txn, .. } | Message::Done { txn, .. },
            ) => {
                let own = self.nodes[at].directory.transaction(gfn);
                *txn = own.or(under_way).map_or(*txn, |transaction| transaction.txn);
            }
            _ => {}
        }
        let outcome = self.handle(at, Event::Message { from, message });
        if outcome.is_err() && mistake == Mistake::RefusalsLeaveTraces {
            self.nodes[at].counters.spurious += 1;
        }
        outcome
    }

    fn carry_out(&mut self, at: usize, received: Option<u64>) -> Result<(), String> {
        let mut effects = Effects::default();
        let done = self.hosts[at].carry_out(&self.actions, received, &mut effects);
        match done {
            // (Its core may be out of step with its host after what it was told.)
            Err(_) if at == LIAR.index() => {}
            Err(why) => return Err(format!("node {at}: {why} (all: {:?})", self.actions)),
            Ok(()) => {}
        }
        for (to, packet) in effects.sent {
            self.link(at, to.index()).push_back(packet);
        }
        if at != LIAR.index() {
            self.lent.extend(effects.lent.iter().map(|&(index, _)| (at, index)));
        }
        effects.changed.iter().try_for_each(|&index| self.check(index))
    }

    /// One writer or many readers among the honest, and all that can be read is the latest.
    fn check(&self, index: usize) -> Result<(), String> {
        match self.is_tainted(index) {
            true => Ok(()),
            false => check_page(self.hosts[..LIAR.index()].iter(), index, self.latest[index]),
        }
    }

    /// The liar falls silent; everything else comes to its end. What is left to the honest must be coherent, and the
    /// directories must know it.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..8 {
            let mut delivered = 0;
            while let Some(busy) = (0..NODES * NODES).find(|&link| !self.links[link].is_empty()) {
                delivered += 1;
                if delivered > DELIVERIES_MAX {
                    return Err(format!("the honest talk for ever: {:?}", self.links[busy].front()));
                }
                match busy / NODES == LIAR.index() {
                    true => self.links[busy].clear(),
                    false => self.deliver(busy / NODES, busy % NODES)?,
                }
            }
            (0..LIAR.index()).try_for_each(|at| self.tick(at, 1_000_000))?;
        }
        (0..self.pages.len())
            .filter(|&index| !self.is_tainted(index))
            .try_for_each(|index| self.check_quiet(index))
    }

    fn check_quiet(&self, index: usize) -> Result<(), String> {
        self.check(index)?;
        let gfn = self.pages.gfn(index);
        let home = self.nodes.iter().find(|node| node.is_home(gfn)).ok_or(format!("{gfn}: no home"))?;
        // Something that waits for the liar waits for ever.
        let arriving = home.awaits_home_known(gfn, LIAR).1.is_some();
        if arriving || home.directory.transaction(gfn).is_some() {
            return Ok(());
        }
        let honest = |node: &NodeId| *node != LIAR;
        let recorded: Vec<(NodeId, Rights)> =
            home.recorded(gfn).into_iter().filter(|(node, _)| honest(node)).collect();
        let all = (0..NODES as u8).map(NodeId).filter(honest);
        let held: Vec<(NodeId, Rights)> = all
            .map(|node| (node, self.nodes[node.index()].rights(gfn)))
            .filter(|(_, rights)| *rights != Rights::None)
            .collect();
        match recorded == held {
            true => Ok(()),
            false => Err(format!("{gfn}: the directory says {recorded:?}, the honest have {held:?}")),
        }
    }

    /// Remembers what kind of situation this was: what was said, in what state of the receiver, with what outcome.
    fn note(&mut self, before: &Node, message: &Message, outcome: &Result<(), Violation>, straight: bool) {
        let gfn = message.gfn();
        let refusal = outcome.as_ref().err().map(kind_of);
        self.refusals.extend(refusal.as_ref().map(|(kind, _)| kind.clone()));
        let (untold, arriving) = before.awaits_home_known(gfn, LIAR);
        let situation = (
            (message.kind(), message.carries_page(), refusal, straight),
            (before.rights(gfn), before.is_home(gfn), before.deferred.get(gfn).is_some()),
            before.wanted.get(gfn).map(|wanted| wanted.is_being_served()),
            (untold.is_some(), arriving.map(|(_, knows)| knows)),
        );
        self.features.push(oracle::digest(&situation));
    }

    /// Hands a frame of the liar's to the link, as bytes: what cannot be decoded never gets farther.
    pub fn say(&mut self, to: usize, frame: &Frame) {
        match frame.decode(self.pages) {
            Ok(packet) => {
                self.lied_about(packet.message.gfn());
                self.link(LIAR.index(), to).push_back(packet);
            }
            Err(WireError::Kind(_)) => self.features.push(0),
            Err(WireError::Field { kind, field, .. }) => self.features.push(oracle::digest(&(kind, field))),
        }
    }

    /// Reads an access.
    pub fn some_access(input: &mut Input<'_>) -> Access {
        match input.flag() {
            true => Access::Write,
            false => Access::Read,
        }
    }
}

/// Which violation it is, without the numbers.
fn kind_of(violation: &Violation) -> (String, &'static str) {
    let text = format!("{violation:?}");
    let kind = text.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
    let expected = match violation {
        Violation::Unexpected { expected, .. } | Violation::Rights { expected, .. } => expected,
        _ => "",
    };
    (kind, expected)
}
