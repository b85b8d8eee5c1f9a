//! The machine as sysfs shows it: as many NUMA nodes as asked for, each with CPUs and memory of its own, all others
//! farther away than itself; and memory that a CPU touches first comes from its own node.

use std::fs;

use super::Finding;
use crate::cpus::{self, NODES};
use crate::json::Object;
use crate::memory::{Pages, PAGE_BYTES};
use crate::orders::Order;
use crate::trouble::Trouble;

/// Distance of a node to itself, by ACPI.
const SELF_DISTANCE: usize = 10;
/// Pages that are touched on each node.
const TOUCHED: usize = 256;

/// A NUMA node as the kernel shows it.
#[derive(Debug)]
struct Node {
    number: usize,
    cpus: Vec<usize>,
    mem_kib: u64,
    distances: Vec<usize>,
}

impl Node {
    fn read(number: usize) -> Self {
        let file =
            |name: &str| fs::read_to_string(format!("{NODES}/node{number}/{name}")).unwrap_or_default();
        let distances =
            file("distance").split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        Self {
            number,
            cpus: cpus::parse_list(&file("cpulist")),
            mem_kib: cpus::total_kib(&file("meminfo")),
            distances,
        }
    }
}

/// What is wrong with the nodes, if anything is.
fn fault(nodes: &[Node], online: &[usize]) -> Option<String> {
    for (place, node) in nodes.iter().enumerate() {
        let Node { number, cpus, mem_kib, distances } = node;
        if cpus.is_empty() || *mem_kib == 0 {
            return Some(format!("node {number} has CPUs {cpus:?} and {mem_kib} KiB"));
        }
        let near = |(other, &distance): (usize, &usize)| (distance == SELF_DISTANCE) == (other == place);
        if distances.len() != nodes.len() || !distances.iter().enumerate().all(near) {
            return Some(format!("node {number} has the distances {distances:?}"));
        }
    }
    let mut all: Vec<usize> = nodes.iter().flat_map(|node| node.cpus.iter().copied()).collect();
    all.sort_unstable();
    (all != online).then(|| format!("the nodes have the CPUs {all:?}, online are {online:?}"))
}

/// The nodes on which the pages of `memory` lie; `None` for one that is nowhere.
fn places(memory: &Pages) -> Result<Vec<Option<usize>>, Trouble> {
    let addresses: Vec<usize> = (0..memory.len()).map(|page| memory.address() + page * PAGE_BYTES).collect();
    let mut status = vec![0i32; addresses.len()];
    // SAFETY: both lists have as many elements as is said and outlive the call; without a list of nodes nothing moves.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addresses.len(),
            addresses.as_ptr(),
            std::ptr::null::<i32>(),
            status.as_mut_ptr(),
            0,
        )
    };
    if answer < 0 {
        return Err(Trouble::last_os("move_pages"));
    }
    Ok(status.into_iter().map(|node| usize::try_from(node).ok()).collect())
}

/// Touches memory on the first CPU of a node; gives how many of its pages do not lie there.
fn strayed(node: &Node) -> Result<usize, Trouble> {
    let memory = Pages::new(TOUCHED)?;
    cpus::on_each(&node.cpus[..1], |_| {
        for page in 0..memory.len() {
            memory.lone(page).store(1, std::sync::atomic::Ordering::Relaxed);
        }
    })?;
    Ok(places(&memory)?.into_iter().filter(|place| *place != Some(node.number)).count())
}

/// Runs the program. Parameters: `nodes` that there must be, `cpus` that must be online, `mb` of memory that
/// the nodes must have at least, together; each left out is not checked.
///
/// # Errors
/// Parameters that make no sense, or a kernel without NUMA.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["nodes", "cpus", "mb"])?;
    let start = std::time::Instant::now();
    let nodes: Vec<Node> = cpus::node_numbers().into_iter().map(Node::read).collect();
    let online = cpus::usable();
    let wanted_nodes = order.number("nodes", nodes.len() as u64, 1)? as usize;
    let wanted_cpus = order.number("cpus", online.len() as u64, 1)? as usize;
    let memory_mib = nodes.iter().map(|node| node.mem_kib).sum::<u64>() >> 10;
    let wanted_mib = order.number("mb", 0, 0)?;
    let fault = fault(&nodes, &online);
    let mut strays = Vec::new();
    if fault.is_none() {
        strays = nodes.iter().map(strayed).collect::<Result<_, _>>()?;
    }
    let mut figures = Object::default();
    figures.list("numa", cpus::numa()).add("cpus", online.len()).add("memory_mib", memory_mib);
    figures.list("strayed_pages", &strays);
    if let Some(fault) = &fault {
        figures.text("fault", fault);
    }
    let ok = fault.is_none()
        && nodes.len() == wanted_nodes
        && online.len() == wanted_cpus
        && memory_mib >= wanted_mib
        && strays.iter().all(|&pages| pages == 0);
    Ok(Finding { figures, seconds: start.elapsed().as_secs_f64(), ok })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize, cpus: &[usize], mem_kib: u64, distances: &[usize]) -> Node {
        Node { number, cpus: cpus.to_vec(), mem_kib, distances: distances.to_vec() }
    }

    #[test]
    fn nodes_that_share_out_cpus_and_memory_are_right() {
        let nodes = [node(0, &[0, 2], 5, &[10, 20]), node(1, &[1], 5, &[20, 10])];
        assert_eq!(fault(&nodes, &[0, 1, 2]), None);
    }

    #[test]
    fn each_fault_is_found() {
        let right = || node(0, &[0], 5, &[10, 20]);
        for (second, online) in [
            (node(1, &[], 5, &[20, 10]), vec![0]),
            (node(1, &[1], 0, &[20, 10]), vec![0, 1]),
            (node(1, &[1], 5, &[10, 10]), vec![0, 1]),
            (node(1, &[1], 5, &[20]), vec![0, 1]),
            (node(1, &[0], 5, &[20, 10]), vec![0, 1]),
            (node(1, &[1], 5, &[20, 10]), vec![0, 1, 2]),
        ] {
            assert!(fault(&[right(), second], &online).is_some());
        }
    }
}
