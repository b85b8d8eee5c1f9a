//! The guest's CPUs and NUMA nodes, and threads that stay on theirs.

use std::fs;
use std::path::Path;

use crate::json::Object;
use crate::trouble::Trouble;

const CPU_ONLINE: &str = "/sys/devices/system/cpu/online";
const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// Where the kernel shows NUMA nodes.
pub const NODES: &str = "/sys/devices/system/node";

/// A list as the kernel prints it: `0-3,8`. Pieces that are no numbers are left out.
pub fn parse_list(text: &str) -> Vec<usize> {
    let mut list = Vec::new();
    for piece in text.trim().split(',') {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            list.extend(first..=last.min(first + 4096));
        }
    }
    list
}

/// CPUs that are online and that this process may use.
pub fn usable() -> Vec<usize> {
    let allowed = allowed();
    match fs::read_to_string(CPU_ONLINE) {
        Ok(text) => parse_list(&text).into_iter().filter(|cpu| allowed.contains(cpu)).collect(),
        Err(_) => allowed,
    }
}

fn allowed() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is an empty set, and the kernel writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        set
    };
    // SAFETY: the index is within the set's bits.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// Where there is no such CPU online.
pub fn pin(cpu: usize) -> Result<(), Trouble> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(Trouble::Unfit(format!("CPU {cpu} is beyond what a cpu_set_t holds")));
    }
    // SAFETY: an all-zero cpu_set_t is an empty set; the index is within its bits; the call reads the set
    // only.
    let answer = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(Trouble::last_os(format!("sched_setaffinity to CPU {cpu}")))
    }
}

/// The CPU that the calling thread runs on at this moment.
pub fn current() -> usize {
    // SAFETY: no arguments, no memory.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// Runs `work` once on each of `cpus`, at the same time, each in a thread of its own bound to its CPU; the
/// argument is the position in the list. Gives the results in that order.
///
/// # Errors
/// Where a thread could not be bound.
pub fn on_each<T: Send>(cpus: &[usize], work: impl Fn(usize) -> T + Sync) -> Result<Vec<T>, Trouble> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .iter()
            .enumerate()
            .map(|(index, &cpu)| scope.spawn(move || bound(cpu, || work(index))))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Trouble::Unfit("a thread panicked".to_owned())))
            })
            .collect()
    })
}

/// A thread that cannot be bound does its work all the same: others may be waiting for it.
fn bound<T>(cpu: usize, work: impl FnOnce() -> T) -> Result<T, Trouble> {
    let pinned = pin(cpu);
    let result = work();
    pinned.map(|()| result)
}

/// The first `threads` usable CPUs, or all where `threads` is 0; CPUs are used more than once where there are
/// too few.
pub fn spread(threads: usize) -> Vec<usize> {
    let usable = usable();
    let count = if threads == 0 { usable.len() } else { threads };
    usable.into_iter().cycle().take(count).collect()
}

/// The clock source that the kernel uses now.
pub fn clocksource() -> String {
    fs::read_to_string(CLOCKSOURCE).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The NUMA nodes' numbers, ascending.
pub fn node_numbers() -> Vec<usize> {
    let mut nodes: Vec<usize> = fs::read_dir(NODES)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("node")?.parse().ok())
        .collect();
    nodes.sort_unstable();
    nodes
}

/// Each NUMA node with its CPUs and memory, as the kernel sees them.
pub fn numa() -> Vec<Object> {
    node_numbers()
        .into_iter()
        .map(|node| describe(node, &Path::new(NODES).join(format!("node{node}"))))
        .collect()
}

fn describe(node: usize, folder: &Path) -> Object {
    let cpus = fs::read_to_string(folder.join("cpulist")).unwrap_or_default();
    let meminfo = fs::read_to_string(folder.join("meminfo")).unwrap_or_default();
    let mut object = Object::default();
    object.add("node", node).text("cpus", cpus.trim()).add("mem_kib", total_kib(&meminfo));
    object
}

/// The total of a `meminfo` of a NUMA node, in KiB; 0 where there is none.
pub fn total_kib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find(|line| line.contains("MemTotal:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).next_back().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_are_read() {
        assert_eq!(parse_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_list("\n"), [0usize; 0]);
        assert_eq!(parse_list("7"), [7]);
    }

    #[test]
    fn the_total_is_the_last_number_of_its_line() {
        assert_eq!(total_kib("Node 1 MemFree: 5 kB\nNode 1 MemTotal:       2048 kB\n"), 2048);
        assert_eq!(total_kib(""), 0);
    }

    #[test]
    fn each_thread_is_on_its_cpu() {
        let cpus = usable();
        assert!(!cpus.is_empty());
        assert_eq!(on_each(&cpus, |_| current()).unwrap(), cpus);
    }
}
