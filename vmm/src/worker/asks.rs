//! Questions and orders of users, on whichever node they arrive.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_dsm::NodeId;
use tracing::debug;

use super::machine::GuestMachine;
use super::node::Node;
use crate::control::ask::{Answer, Ask, GuestStats, Outcome, Pace};
use crate::control::ending::{EndCause, StopReason};
use crate::control::frame::{self, FrameReader};

/// How long another node may take to give its figures.
const STATS_LIMIT: Duration = Duration::from_secs(2);
/// How long a move may take.
const MOVE_LIMIT: Duration = Duration::from_secs(20);
/// How long all nodes may take to let the guest stand still, or go on.
const PACE_LIMIT: Duration = Duration::from_secs(8);
/// How long a user's connection may be silent.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Serves one user's connection: question, answer, and so on until it closes.
pub fn serve_user(node: &Arc<Node>, connection: &TcpStream) {
    let limited = connection.set_write_timeout(Some(IDLE_LIMIT));
    let (mut writer, mut reader) = (connection, FrameReader::new(connection));
    while limited.is_ok() {
        let ask = match reader.read::<Ask>(Some(Instant::now() + IDLE_LIMIT)) {
            Ok(ask) => ask,
            Err(error) => {
                debug!("a user's connection has ended: {error}");
                return;
            }
        };
        let outcome = answer_user(node, &ask);
        if frame::write(&mut writer, &outcome).is_err() {
            return;
        }
    }
}

/// Answers a user, with the help of the other nodes where it takes them.
pub fn answer_user(node: &Arc<Node>, ask: &Ask) -> Outcome {
    match ask {
        Ask::Stats => Ok(Answer::Stats(Box::new(gather(node)))),
        &Ask::Move { vcpu, ref to } => {
            let to = find_node(node, to)?;
            let from = place_of(&**machine(node)?, vcpu)?;
            let order = Ask::MoveFromHere { vcpu, to };
            match node.peers.link(from) {
                None => answer_peer(node, &order),
                Some(link) => link.ask(order, Instant::now() + MOVE_LIMIT),
            }
        }
        Ask::Stop => {
            node.life.end(EndCause::Stopped(StopReason::Command));
            Ok(Answer::Stopping)
        }
        Ask::PowerButton | Ask::Devices => match node.peers.link(NodeId::HOME) {
            None => answer_peer(node, ask),
            Some(link) => link.ask(ask.clone(), Instant::now() + STATS_LIMIT),
        },
        Ask::Vcpus => gather_vcpus(node),
        &Ask::Run(pace) => run_all(node, pace),
        Ask::NodeStats | Ask::MoveFromHere { .. } | Ask::RunHere(_) => answer_peer(node, ask),
    }
}

/// Lets the guest stand still, or go on, on all nodes. One that does not come to a stand as a whole goes on.
fn run_all(node: &Arc<Node>, pace: Pace) -> Outcome {
    machine(node)?;
    let outcome = tell_all(node, pace);
    if outcome.is_err() && pace == Pace::Still {
        // The first failure is the one to tell.
        let _second = tell_all(node, Pace::Going);
    }
    outcome.map(|()| Answer::Runs(pace))
}

fn tell_all(node: &Arc<Node>, pace: Pace) -> Result<(), String> {
    let by = Instant::now() + PACE_LIMIT;
    let told = |outcome: Outcome, host: String| match outcome {
        Ok(Answer::Runs(_)) => Ok(()),
        Ok(_) => Err(format!("host {host}: it answered something else")),
        Err(why) => Err(format!("host {host}: {why}")),
    };
    std::thread::scope(|scope| {
        let links = node.peers.links().iter();
        let asked: Vec<_> =
            links.map(|link| (link, scope.spawn(move || link.ask(Ask::RunHere(pace), by)))).collect();
        let here = told(answer_peer(node, &Ask::RunHere(pace)), node.spec.host_name(node.spec.me));
        asked.into_iter().fold(here, |so_far, (link, answer)| {
            let host = node.spec.host_name(link.node());
            let answer = answer.join().unwrap_or_else(|_| Err("it was not asked".into()));
            so_far.and(told(answer, host))
        })
    })
}

/// All vCPUs: what each node says of those that are there, and for the others, which are on their way or on a
/// silent node, what is known here.
fn gather_vcpus(node: &Arc<Node>) -> Outcome {
    let mut vcpus = machine(node)?.vcpus();
    for resident in gather(node).nodes.into_iter().flat_map(|stats| stats.vcpus) {
        if let Some(known) = vcpus.iter_mut().find(|known| known.vcpu == resident.vcpu) {
            *known = resident;
        }
    }
    Ok(Answer::Vcpus(vcpus))
}

/// Answers another node: only what this node can answer alone, so that no question goes in circles.
pub fn answer_peer(node: &Arc<Node>, ask: &Ask) -> Outcome {
    match ask {
        Ask::NodeStats => Ok(Answer::NodeStats(Box::new(node.stats()))),
        &Ask::MoveFromHere { vcpu, to } => {
            if to.index() >= node.spec.nodes() {
                return Err(format!("the guest has no {to}"));
            }
            if place_of(&**machine(node)?, vcpu)? == to {
                return Err(format!("vCPU {vcpu} already is on {}", node.spec.host_name(to)));
            }
            machine(node)?.move_vcpu(vcpu, to).map(Answer::Moved)
        }
        Ask::PowerButton => {
            machine(node)?.press_power_button();
            Ok(Answer::Pressed)
        }
        Ask::Devices => Ok(Answer::Devices(machine(node)?.devices())),
        &Ask::RunHere(pace) => {
            match pace {
                Pace::Still => machine(node)?.pause()?,
                Pace::Going => machine(node)?.resume(),
            }
            Ok(Answer::Runs(pace))
        }
        Ask::Stats | Ask::Vcpus | Ask::Move { .. } | Ask::Stop | Ask::Run(_) => {
            Err("this is not asked by one node of another".into())
        }
    }
}

fn machine(node: &Node) -> Result<&Arc<dyn GuestMachine>, String> {
    match node.running() {
        Duration::ZERO => Err(format!("guest {} is still being started", node.spec.name)),
        _ => node.machine().ok_or_else(|| "the guest has no machine".into()),
    }
}

fn place_of(machine: &dyn GuestMachine, vcpu: u32) -> Result<NodeId, String> {
    let vcpus = machine.vcpus();
    match vcpus.iter().find(|known| known.vcpu == vcpu) {
        Some(known) => Ok(known.node),
        None => {
            Err(format!("the guest has no vCPU {vcpu}: its vCPUs are 0 to {}", vcpus.len().saturating_sub(1)))
        }
    }
}

/// The node that a user means: by number, by its host's address, or by its host's name if only one has it.
fn find_node(node: &Node, text: &str) -> Result<NodeId, String> {
    let hosts = &node.spec.hosts;
    let numbered = text.parse::<u8>().ok().filter(|&number| usize::from(number) < hosts.len());
    if let Some(number) = numbered {
        return Ok(NodeId(number));
    }
    let id = |index: usize| NodeId(index as u8);
    if let Some(index) = hosts.iter().position(|host| host.address.to_string() == text) {
        return Ok(id(index));
    }
    let named = |index: &usize| hosts[*index].hostname == text || hosts[*index].address.host() == text;
    let mut fitting = (0..hosts.len()).filter(named);
    match (fitting.next(), fitting.next()) {
        (Some(index), None) => Ok(id(index)),
        (Some(_), Some(_)) => Err(format!("{text:?} names several nodes: use a number or HOST:PORT")),
        (None, _) => {
            let known: Vec<_> =
                hosts.iter().enumerate().map(|(index, host)| format!("{index} ({})", host.address)).collect();
            Err(format!("{text:?} is no node of this guest: its nodes are {}", known.join(", ")))
        }
    }
}

/// The figures of all nodes. Those that are silent are named instead.
fn gather(node: &Arc<Node>) -> GuestStats {
    let by = Instant::now() + STATS_LIMIT;
    let mut nodes = vec![node.stats()];
    let mut silent = Vec::new();
    std::thread::scope(|scope| {
        let asked: Vec<_> = node
            .peers
            .links()
            .iter()
            .map(|link| (link, scope.spawn(move || link.ask(Ask::NodeStats, by))))
            .collect();
        for (link, answer) in asked {
            match answer.join() {
                Ok(Ok(Answer::NodeStats(stats))) if stats.node == link.node() => nodes.push(*stats),
                _ => silent.push(node.spec.host_name(link.node())),
            }
        }
    });
    nodes.sort_by_key(|stats| stats.node);
    GuestStats { guest: node.spec.name.clone(), running_ms: node.running().as_millis() as u64, nodes, silent }
}
