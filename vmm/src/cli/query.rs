//! `list`, `vcpu`, `device`, `stats`, `stop` and `power-button`: one question to a daemon or to a guest, one answer.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{
    DeviceArgs, DeviceVerb, HostArgs, ListArgs, MoveArgs, PowerButtonArgs, QueryArgs, StopArgs, VcpuArgs,
    VcpuVerb,
};
use super::table::{self, Table};
use super::Failure;
use crate::control::ask::{Answer, Ask, GuestList, GuestStats, Moved};
use crate::control::ending::tidy;
use crate::control::frame::{FrameError, FrameReader};
use crate::control::guest::GuestName;
use crate::control::hello::Role;
use crate::control::question::{self, AskError};
use crate::control::socket::{self, HELLO_LIMIT};
use crate::control::stats::{DeviceStats, MoveStats, NodeStats, VcpuStats};
use crate::launch::LaunchError;

/// Prints the guests of a daemon.
pub(super) fn list(args: &ListArgs) -> Result<u8, Failure> {
    let by = Instant::now() + HELLO_LIMIT;
    let stream = socket::dial(&args.at.host, &Role::List, by)
        .map_err(|error| LaunchError::unreachable(&args.at.host.to_string(), &error))?;
    let list: GuestList =
        FrameReader::new(stream).read(Some(by)).map_err(|error| no_answer(&args.at, &error))?;
    if args.json {
        return print_json(&list);
    }
    let mut table = Table::new(&["GUEST", "ID", "STATE", "NODE", "HOSTS", "PID"]);
    for guest in &list.guests {
        table.row([
            guest.name.to_string(),
            tidy(&guest.id),
            guest.stage.to_string(),
            guest.node.map_or_else(|| "-".into(), |node| node.0.to_string()),
            tidy(&guest.hosts.join(",")),
            guest.pid.to_string(),
        ]);
    }
    for lost in &list.lost {
        let lost_row = [lost.name.to_string(), "-".into(), format!("lost: {}", tidy(&lost.how))];
        table.row(lost_row.into_iter().chain((0..3).map(|_| "-".into())));
    }
    print(&table.to_string())
}

/// Prints or moves vCPUs.
pub(super) fn vcpu(args: &VcpuArgs) -> Result<u8, Failure> {
    match &args.verb {
        VcpuVerb::List(query) => list_vcpus(query),
        VcpuVerb::Move(order) => move_vcpu(order),
    }
}

fn list_vcpus(query: &QueryArgs) -> Result<u8, Failure> {
    let Answer::Vcpus(vcpus) = ask(&query.at, query.guest.as_ref(), &Ask::Vcpus)? else {
        return Err(confused());
    };
    if query.json {
        return print_json(&vcpus);
    }
    let mut table = Table::new(&["VCPU", "APIC", "NODE", "MOVES", "LAST BLACKOUT", "WORST BLACKOUT"]);
    for VcpuStats { vcpu, apic_id, node, moves, last_blackout_us, worst_blackout_us } in vcpus {
        let [last, worst] =
            [last_blackout_us, worst_blackout_us].map(|us| if us > 0 { micros(us) } else { "-".into() });
        table.row([
            vcpu.to_string(),
            apic_id.to_string(),
            node.0.to_string(),
            moves.to_string(),
            last,
            worst,
        ]);
    }
    print(&table.to_string())
}

fn move_vcpu(order: &MoveArgs) -> Result<u8, Failure> {
    let query = &order.query;
    let question = Ask::Move { vcpu: order.vcpu, to: order.to.clone() };
    let Answer::Moved(moved) = ask(&query.at, query.guest.as_ref(), &question)? else {
        return Err(confused());
    };
    if query.json {
        return print_json(&moved);
    }
    let Moved { vcpu, from, to, blackout_us, bytes } = moved;
    print(&format!("vCPU {vcpu} moved from {from} to {to}: blackout {blackout_us} us, {bytes} bytes\n"))
}

/// Prints the figures of all nodes of a guest.
pub(super) fn stats(query: &QueryArgs) -> Result<u8, Failure> {
    let Answer::Stats(stats) = ask(&query.at, query.guest.as_ref(), &Ask::Stats)? else {
        return Err(confused());
    };
    match query.json {
        true => print_json(&*stats),
        false => print(&describe(&stats)),
    }
}

/// Stops a guest.
pub(super) fn stop(args: &StopArgs) -> Result<u8, Failure> {
    match ask(&args.at, args.guest.as_ref(), &Ask::Stop)? {
        Answer::Stopping => Ok(0),
        _ => Err(confused()),
    }
}

/// Prints a guest's devices.
pub(super) fn device(args: &DeviceArgs) -> Result<u8, Failure> {
    let DeviceVerb::List(query) = &args.verb;
    let Answer::Devices(devices) = ask(&query.at, query.guest.as_ref(), &Ask::Devices)? else {
        return Err(confused());
    };
    if query.json {
        return print_json(&devices);
    }
    let mut table = Table::new(&[
        "DEVICE",
        "SLOT",
        "NODE",
        "HOST",
        "BEHIND IT",
        "BORROWED",
        "FETCHED",
        "ACCESSES FROM AFAR",
    ]);
    for device in devices {
        let DeviceStats { name, slot, node, host, behind, pages_borrowed, pages_fetched, remote_accesses } =
            device;
        table.row([
            tidy(&name),
            format!("00:{slot:02x}.0"),
            node.0.to_string(),
            tidy(&host),
            tidy(&behind),
            table::pages(pages_borrowed),
            table::pages(pages_fetched),
            remote_accesses.to_string(),
        ]);
    }
    print(&table.to_string())
}

/// Presses a guest's power button.
pub(super) fn power_button(args: &PowerButtonArgs) -> Result<u8, Failure> {
    match ask(&args.at, args.guest.as_ref(), &Ask::PowerButton)? {
        Answer::Pressed => Ok(0),
        _ => Err(confused()),
    }
}

fn describe(stats: &GuestStats) -> String {
    let seconds = Duration::from_millis(stats.running_ms).as_secs_f64();
    let mut text = format!("guest {}, running for {seconds:.1} s\n\n", stats.guest);
    let mut nodes = Table::new(&[
        "NODE",
        "HOST",
        "VCPUS",
        "OWNED",
        "COPIES",
        "RESIDENT",
        "SENT",
        "RECEIVED",
        "RELAYED",
        "FORWARDED",
        "SKEW",
    ]);
    let mut faults = Table::new(&["NODE", "FAULT", "COUNT", "MEAN", "P50", "P99", "MAX"]);
    let mut stalls = Table::new(&["NODE", "STALLED VCPU", "PAGES", "TIME"]);
    let mut moves =
        Table::new(&["NODE", "MOVES IN", "BLACKOUT P50", "P99", "MAX", "MOVES OUT", "FAILED", "STATE SENT"]);
    for node in &stats.nodes {
        let number = node.node.0.to_string();
        let vcpus: Vec<String> = node.vcpus.iter().map(|vcpu| vcpu.vcpu.to_string()).collect();
        nodes.row([
            number.clone(),
            tidy(&node.host),
            if vcpus.is_empty() { "-".into() } else { vcpus.join(",") },
            table::pages(node.memory.owned_pages),
            table::pages(node.memory.copied_pages),
            table::bytes(node.memory.resident_bytes),
            table::bytes(node.traffic.bytes_out),
            table::bytes(node.traffic.bytes_in),
            node.interrupts_relayed.to_string(),
            node.accesses_forwarded.to_string(),
            format!("{} ns", node.clock.skew_bound_ns),
        ]);
        for fault in node.faults.iter().filter(|fault| fault.latency.count > 0) {
            let spread = fault.latency;
            let mean = format!("{:.0} us", spread.mean_us);
            let [p50, p99, max] = [spread.p50_us, spread.p99_us, spread.max_us].map(micros);
            faults.row([number.clone(), tidy(&fault.kind), spread.count.to_string(), mean, p50, p99, max]);
        }
        stall_rows(&mut stalls, node);
        let moved = node.moves;
        if moved != MoveStats::default() {
            let [p50, p99, max] =
                [moved.blackout_p50_us, moved.blackout_p99_us, moved.blackout_max_us].map(micros);
            let [arrived, left, failed] =
                [moved.arrived, moved.left, moved.failed].map(|count| count.to_string());
            moves.row([number, arrived, p50, p99, max, left, failed, table::bytes(moved.bytes_sent)]);
        }
    }
    for table in [nodes, faults, stalls, moves] {
        if !table.is_empty() {
            text.push_str(&format!("{table}\n"));
        }
    }
    if !stats.silent.is_empty() {
        text.push_str(&format!("no answer from {}\n", tidy(&stats.silent.join(", "))));
    }
    text.trim_end().to_owned() + "\n"
}

/// How long each vCPU has stood still on a node, and how long pages travelled for which none had to.
fn stall_rows(stalls: &mut Table, node: &NodeStats) {
    let number = node.node.0.to_string();
    let mut row = |who: String, faults: u64, us: u64| {
        stalls.row([number.clone(), who, faults.to_string(), micros(us)]);
    };
    for stall in &node.stalls {
        row(stall.vcpu.to_string(), stall.faults, stall.stalled_us);
    }
    let behind = node.async_faults;
    if behind.faults > 0 {
        row("none".into(), behind.faults, behind.travelled_us);
    }
}

fn micros(us: u64) -> String {
    format!("{us} us")
}

fn no_answer(at: &HostArgs, error: &FrameError) -> Failure {
    Failure::new(format!("host {} did not answer: {error}", at.host))
}

fn confused() -> Failure {
    Failure::new("the guest answered something else: is this the same version of tessera?")
}

fn ask(at: &HostArgs, guest: Option<&GuestName>, ask: &Ask) -> Result<Answer, Failure> {
    question::ask(&at.host, guest, ask).map_err(|error| match error {
        AskError::Unreachable(error) => LaunchError::unreachable(&at.host.to_string(), &error).into(),
        AskError::NoAnswer(error) => no_answer(at, &error),
        AskError::Refused(why) => Failure::new(why),
    })
}

fn print_json<T: Serialize>(value: &T) -> Result<u8, Failure> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

fn print(text: &str) -> Result<u8, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(error.into()),
    }
}
