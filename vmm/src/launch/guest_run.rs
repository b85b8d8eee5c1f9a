//! One life of a guest, from the first worker to the last word: a reset begins another one.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tessera_dsm::NodeId;
use tracing::info;

use super::error::LaunchError;
use super::inputs::Input;
use super::plan::Plan;
use super::report::BootTimes;
use super::session::{Event, Listening, Session};
use crate::control::ending::{EndCause, StopReason};
use crate::control::frame::CHUNK_BYTES;
use crate::control::guest::GuestId;
use crate::control::orders::{Arming, Order, Report, Stage};
use crate::control::stats::NodeStats;
use crate::host::signals::EndSignal;

/// How long the other nodes may take to say their last word after the first one has, or after one was lost.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(4);
/// How long a node that takes no orders may take to say why.
const EXPLANATION_LIMIT: Duration = Duration::from_millis(500);
/// How long a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(6);

/// How a guest's life went.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub cause: EndCause,
    /// How long each step of the start took.
    pub times: BootTimes,
    /// For how long the vCPUs ran.
    pub ran: Duration,
    /// What the nodes did, as far as they said.
    pub nodes: Vec<NodeStats>,
}

/// A guest that is being started or runs.
pub struct GuestRun<'a> {
    id: GuestId,
    sessions: Vec<Session>,
    events: &'a Receiver<Event>,
    listening: &'a Listening,
    times: BootTimes,
    step_began: Instant,
}

/// What an end was seen of.
#[derive(Default)]
struct LastWords {
    /// Of those that said something.
    stats: BTreeMap<NodeId, NodeStats>,
    cause: Option<EndCause>,
    /// Nodes whose connection ended without a word; how.
    lost: BTreeMap<NodeId, String>,
    interrupts: u32,
    /// When not to wait any longer.
    deadline: Option<Instant>,
}

impl<'a> GuestRun<'a> {
    /// Starts the guest and stays with it to its end. `on_start` is called when its vCPUs run.
    ///
    /// # Errors
    /// When it does not start, or the user interrupts that.
    pub fn run(
        plan: &Plan,
        inputs: &[Input],
        events: &'a Receiver<Event>,
        listening: &'a Listening,
        on_start: impl FnOnce(&BootTimes),
    ) -> Result<Outcome, LaunchError> {
        let id = GuestId::random().map_err(LaunchError::local("cannot make a guest id"))?;
        let (sessions, times) = (Vec::new(), BootTimes::default());
        let mut run = GuestRun { id, sessions, events, listening, times, step_began: Instant::now() };
        run.bring_up(plan, inputs)?;
        listening.console.connect(run.sessions.first().map(Session::writer));
        on_start(&run.times);
        let started = Instant::now();
        let (cause, nodes) = run.attend(plan);
        listening.console.connect(None);
        Ok(Outcome { cause, times: run.times, ran: started.elapsed(), nodes })
    }

    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        (0..self.sessions.len() as u8).map(NodeId)
    }

    fn bring_up(&mut self, plan: &Plan, inputs: &[Input]) -> Result<(), LaunchError> {
        let spec = plan.template();
        for (node, host) in (0u8..).map(NodeId).zip(&spec.hosts) {
            self.sessions.push(Session::create(&host.address, node, self.id, &spec.name, self.listening)?);
        }
        self.times.create_ms = self.lap();
        for node in self.nodes() {
            let order = Order::Configure(Box::new(plan.spec_for(self.id, node)));
            self.send(node, &order, Stage::Configured)?;
        }
        self.await_all(Stage::Configured)?;
        self.times.configure_ms = self.lap();
        self.order_all(&Order::Connect, Stage::Connected)?;
        self.times.connect_ms = self.lap();
        let arming = self.load(inputs)?;
        self.times.load_ms = self.lap();
        self.order_all(&Order::Arm(arming), Stage::Armed)?;
        self.times.arm_ms = self.lap();
        self.order_all(&Order::Start, Stage::Running)?;
        self.times.start_ms = self.lap();
        Ok(())
    }

    /// Milliseconds since the last call.
    fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let lap = now - std::mem::replace(&mut self.step_began, now);
        lap.as_millis() as u64
    }

    /// Gives an order to all nodes, and waits until all have done it.
    fn order_all(&mut self, order: &Order, stage: Stage) -> Result<(), LaunchError> {
        for node in self.nodes() {
            self.send(node, order, stage)?;
        }
        self.await_all(stage)
    }

    /// Gives an order to a node. If it cannot be sent, the node may have said why before it closed.
    fn send(&self, node: NodeId, order: &Order, stage: Stage) -> Result<(), LaunchError> {
        let Err(error) = self.sessions[node.index()].send(order) else { return Ok(()) };
        match self.next_report(stage, node, Instant::now() + EXPLANATION_LIMIT) {
            Err(said @ (LaunchError::Interrupted | LaunchError::Stage { .. })) => Err(said),
            _ => Err(self.failure(node, stage, format!("its worker is lost: {error}"))),
        }
    }

    fn await_all(&mut self, stage: Stage) -> Result<(), LaunchError> {
        let mut waiting: Vec<NodeId> = self.nodes().collect();
        let by = Instant::now() + stage.limit();
        while let Some(&first) = waiting.first() {
            match self.next_report(stage, first, by)? {
                (node, Report::Reached(reached)) if reached == stage => {
                    waiting.retain(|&other| other != node);
                }
                (node, _) => return Err(self.failure(node, stage, "it answered out of turn".into())),
            }
        }
        info!("all nodes are {stage}");
        Ok(())
    }

    fn load(&mut self, inputs: &[Input]) -> Result<Arming, LaunchError> {
        let home = |order: &Order| self.send(NodeId::HOME, order, Stage::Loaded);
        let mut chunk = vec![0; CHUNK_BYTES];
        for input in inputs {
            home(&Order::Image { image: input.image, bytes: input.bytes })?;
            let mut sent = 0;
            while sent < input.bytes {
                chunk.resize((input.bytes - sent).min(CHUNK_BYTES as u64) as usize, 0);
                input.read_at(&mut chunk, sent)?;
                sent += chunk.len() as u64;
                let order = Order::Chunk(std::mem::take(&mut chunk));
                home(&order)?;
                if let Order::Chunk(bytes) = order {
                    chunk = bytes;
                }
            }
        }
        home(&Order::Load)?;
        match self.next_report(Stage::Loaded, NodeId::HOME, Instant::now() + Stage::Loaded.limit())? {
            (NodeId::HOME, Report::Loaded(arming)) => Ok(arming),
            (node, _) => Err(self.failure(node, Stage::Loaded, "it answered out of turn".into())),
        }
    }

    /// The next thing that a node says. `missing` is the node to blame when nobody says anything.
    fn next_report(
        &self,
        stage: Stage,
        missing: NodeId,
        by: Instant,
    ) -> Result<(NodeId, Report), LaunchError> {
        loop {
            match self.events.recv_timeout(by.saturating_duration_since(Instant::now())) {
                Ok(Event::Signal(_)) => return Err(LaunchError::Interrupted),
                Ok(Event::Report { guest, node, report }) if guest == self.id => match *report {
                    Report::Failed { why, .. } => return Err(self.failure(node, stage, why)),
                    Report::Ended { cause, .. } => return Err(self.failure(node, stage, cause.to_string())),
                    report => return Ok((node, report)),
                },
                Ok(Event::Lost { guest, node, how }) if guest == self.id => {
                    return Err(self.failure(
                        node,
                        stage,
                        format!("its worker was lost before it was {stage} ({how})"),
                    ));
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let why = format!("it was not {stage} within {} s", stage.limit().as_secs());
                    return Err(self.failure(missing, stage, why));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(LaunchError::Interrupted),
            }
        }
    }

    fn failure(&self, node: NodeId, stage: Stage, why: String) -> LaunchError {
        let host =
            self.sessions.get(node.index()).map_or_else(|| node.to_string(), |session| session.host.clone());
        let host = format!("host {host}");
        LaunchError::Stage { host, stage, why }
    }

    /// Waits for the guest's end, and for the last words of all its nodes.
    fn attend(&self, plan: &Plan) -> (EndCause, Vec<NodeStats>) {
        let mut words = LastWords::default();
        while words.stats.len() + words.lost.len() < self.sessions.len() {
            let event = match words.deadline {
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(by) => self.events.recv_timeout(by.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(Event::Report { guest, node, report }) if guest == self.id => {
                    if let Report::Ended { cause, stats } = *report {
                        words.lost.remove(&node);
                        words.stats.insert(node, *stats);
                        words.cause.get_or_insert(cause);
                        words.wait_no_longer_than(LAST_WORDS_LIMIT);
                    }
                }
                Ok(Event::Lost { guest, node, how }) if guest == self.id => {
                    if !words.stats.contains_key(&node) {
                        words.lost.insert(node, how);
                        words.wait_no_longer_than(LAST_WORDS_LIMIT);
                    }
                }
                Ok(Event::Signal(signal)) => self.interrupted(signal, &mut words),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        (words.cause(plan), words.stats.into_values().collect())
    }

    /// Ctrl-C twice, or a termination, stops the guest; once more, and nothing is waited for.
    fn interrupted(&self, signal: EndSignal, words: &mut LastWords) {
        words.interrupts += if signal == EndSignal::Interrupt { 1 } else { 2 };
        match words.interrupts {
            1 => eprintln!("tessera: interrupt once more to stop the guest"),
            2 | 3 => {
                for session in &self.sessions {
                    // One that is lost needs no stopping, and the others hear it from each other.
                    let _lost = session.send(&Order::Stop);
                }
                words.wait_no_longer_than(STOP_LIMIT);
            }
            _ => words.deadline = Some(Instant::now()),
        }
    }
}

impl LastWords {
    fn wait_no_longer_than(&mut self, limit: Duration) {
        self.deadline.get_or_insert(Instant::now() + limit);
    }

    /// The cause that a node told; if none did, what the launcher saw itself.
    fn cause(&self, plan: &Plan) -> EndCause {
        let spec = plan.template();
        if let Some(cause) = &self.cause {
            return cause.clone();
        }
        if self.interrupts > 1 {
            return EndCause::Stopped(StopReason::Interrupt);
        }
        let (node, how) = match self.lost.first_key_value() {
            Some((&node, how)) => (node, how.clone()),
            None => (NodeId::HOME, "it said nothing of its end".into()),
        };
        EndCause::NodeLost { node, host: spec.host_name(node), how, pages_alone: None }
    }
}
