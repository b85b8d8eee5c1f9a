//! One node's side of all segments: the way in.

use std::collections::BTreeMap;

use super::affinity::AccessLog;
use super::segment::{Out, Segment, SEGMENTS_MAX, SEGMENT_PAGES_MAX};
use super::{Action, Counters, Event, Held, Message, Micros, PageIndex, SegmentId, SegmentSpec, Violation};
use crate::ids::{NodeId, NodeSet, NODES_MAX};

/// What a node must know to begin.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig {
    /// This node.
    pub me: NodeId,
    /// How many nodes the guest has, 1 to [`NODES_MAX`].
    pub nodes: u8,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    me: NodeId,
    nodes: u8,
    /// This node and its peers, without those that are lost.
    alive: NodeSet,
    pub(super) segments: BTreeMap<SegmentId, Segment>,
    pub(super) log: AccessLog,
    pub(super) counters: Counters,
}

impl Node {
    /// A node without segments.
    ///
    /// # Panics
    /// If `me` is not below `nodes`, or `nodes` is above [`NODES_MAX`]: the configuration is checked where it enters.
    pub fn new(config: NodeConfig) -> Self {
        let NodeConfig { me, nodes } = config;
        assert!(me.0 < nodes, "{me} is none of {nodes} nodes");
        assert!(usize::from(nodes) <= NODES_MAX, "a guest of {nodes} nodes is too wide");
        let mut alive = NodeSet::EMPTY;
        (0..nodes).for_each(|node| alive.insert(NodeId(node)));
        let (segments, log, counters) = (BTreeMap::new(), AccessLog::default(), Counters::default());
        Node { me, nodes, alive, segments, log, counters }
    }

    /// Takes in `event` at time `now` and appends what must be done for it to `actions`.
    ///
    /// # Errors
    /// If the protocol does not allow the event. Then nothing is appended and nothing has changed.
    pub fn handle(&mut self, now: Micros, event: Event, actions: &mut Vec<Action>) -> Result<(), Violation> {
        match event {
            Event::Open(spec) => self.open(spec),
            Event::Close { segment } => {
                self.find(segment)?.check_idle()?;
                self.segments.remove(&segment);
                Ok(())
            }
            Event::Fault { segment, page, access, vcpu } => {
                self.find(segment)?.check_page(page)?;
                self.log.note(now, vcpu, segment, page, access);
                self.at(segment, actions, |segment, out| {
                    segment.fault(page, access, out);
                    Ok(())
                })
            }
            Event::Release { segment, ticket } => {
                self.at(segment, actions, |segment, out| segment.release(ticket, out))
            }
            Event::Prefetch { segment, page } => {
                self.find(segment)?.check_page(page)?;
                self.at(segment, actions, |segment, out| {
                    segment.prefetch(page, out);
                    Ok(())
                })
            }
            Event::Transfer { segment, to } => self.at(segment, actions, |segment, out| {
                segment.transfer(to, out);
                Ok(())
            }),
            Event::Message { from, message } => self.receive(from, message, actions),
            Event::Lost { node } => self.lost(node, actions),
        }
    }

    fn open(&mut self, spec: SegmentSpec) -> Result<(), Violation> {
        let segment = spec.segment;
        let wrong = |expected, seen: u32| Violation::Spec { segment, expected, seen: u64::from(seen) };
        if self.segments.contains_key(&segment) {
            return Err(Violation::OpenTwice { segment });
        }
        if self.segments.len() >= SEGMENTS_MAX {
            return Err(Violation::TooManySegments { segment, limit: SEGMENTS_MAX });
        }
        if spec.pages == 0 || spec.pages > SEGMENT_PAGES_MAX {
            return Err(wrong("a size of 1 page to 1 GiB", spec.pages));
        }
        if spec.dirty_max == 0 {
            return Err(wrong("room for a dirty page", spec.dirty_max));
        }
        if !self.alive.contains(spec.owner) {
            return Err(wrong("an owner that lives", spec.owner.0.into()));
        }
        self.segments.insert(segment, Segment::new(spec, self.me));
        Ok(())
    }

    fn receive(
        &mut self,
        from: NodeId,
        message: Message,
        actions: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        self.check_peer(from)?;
        self.at(message.segment(), actions, |segment, out| segment.receive(from, message, out))
    }

    fn lost(&mut self, node: NodeId, actions: &mut Vec<Action>) -> Result<(), Violation> {
        self.check_peer(node)?;
        self.alive.remove(node);
        let mut out = Out { me: self.me, alive: self.alive, actions, counters: &mut self.counters };
        self.segments.values_mut().for_each(|segment| segment.lost(node, &mut out));
        Ok(())
    }

    fn check_peer(&self, node: NodeId) -> Result<(), Violation> {
        match node != self.me && self.alive.contains(node) {
            true => Ok(()),
            false => Err(Violation::NoPeer { node, nodes: self.nodes }),
        }
    }

    fn find(&self, segment: SegmentId) -> Result<&Segment, Violation> {
        self.segments.get(&segment).ok_or(Violation::NoSegment { segment })
    }

    fn at<T>(
        &mut self,
        segment: SegmentId,
        actions: &mut Vec<Action>,
        does: impl FnOnce(&mut Segment, &mut Out<'_>) -> Result<T, Violation>,
    ) -> Result<T, Violation> {
        let mut out = Out { me: self.me, alive: self.alive, actions, counters: &mut self.counters };
        let found = self.segments.get_mut(&segment).ok_or(Violation::NoSegment { segment })?;
        does(found, &mut out)
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Who used which segment, as far as this node has seen.
    pub fn log(&self) -> &AccessLog {
        &self.log
    }

    /// The same, to note what happened elsewhere, to obey hints, and to take along with a vCPU that moves.
    pub fn log_mut(&mut self) -> &mut AccessLog {
        &mut self.log
    }

    /// What this node has of a page; nothing where no segment is.
    pub fn held(&self, segment: SegmentId, page: PageIndex) -> Held {
        let found = self.segments.get(&segment);
        found.and_then(|found| found.held.get(page.index())).copied().unwrap_or_default()
    }

    /// Who owns a segment, as this node knows.
    pub fn owner(&self, segment: SegmentId) -> Option<NodeId> {
        self.segments.get(&segment).map(|segment| segment.owner)
    }

    /// Pages of a segment with changes that are not released yet.
    pub fn dirty_pages(&self, segment: SegmentId) -> usize {
        self.segments.get(&segment).map_or(0, |segment| segment.dirty.len())
    }
}
