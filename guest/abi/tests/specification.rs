//! docs/guest-abi.md says of every field where it is, and of every number what it means: here it is held to that.

use std::fs;
use std::mem::size_of_val;
use std::path::Path;

use tessera_abi::paravirt::events::{self, kind as event_kind, Entry};
use tessera_abi::paravirt::registers::{status, Registers};
use tessera_abi::paravirt::request::{kind as request_kind, slot, Reason, RequestFields, ResponseFields};
use tessera_abi::paravirt::segments::{segment_state, DirectoryHeader, SegmentEntry, DIRECTORY_MAGIC};
use tessera_abi::paravirt::stats::{
    host_flags, host_state, memory_state, vcpu_flags, FaultStats, HostStats, HotPage, LinkStats, SetHeader,
    Table, VcpuStats, SET_MAGIC,
};
use tessera_abi::paravirt::{Features, MAGIC};
use zerocopy::FromZeros;

fn specification() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guest-abi.md");
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The part of the text under a heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let begin =
        text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading:?}")) + heading.len() + 2;
    let rest = &text[begin..];
    let next = ["\n## ", "\n### "].into_iter().filter_map(|heading| rest.find(heading)).min();
    &rest[..next.unwrap_or(rest.len())]
}

/// The table rows of a section that begin with a number begin with these cells, in this order, and there are no others.
fn rows(heading: &str, expected: &[String]) {
    let text = specification();
    let begins =
        |row: &str| row.strip_prefix("| ").is_some_and(|row| row.starts_with(|c: char| c.is_ascii_digit()));
    let found: Vec<&str> = section(&text, heading).lines().filter(|row| begins(row)).collect();
    for (at, row) in expected.iter().enumerate() {
        let there = found.get(at).is_some_and(|found| found.starts_with(row.as_str()));
        assert!(there, "{heading}: expected {row:?}, found {:?}; all: {expected:#?}", found.get(at));
    }
    assert_eq!(found.len(), expected.len(), "{heading}: rows that stand for nothing");
}

/// A section has a row for every field, with offset, size and name.
macro_rules! fields {
    ($heading:literal, $type:ty: $($field:ident),+ $(,)?) => {{
        let zero = <$type>::new_zeroed();
        let row = |offset: usize, bytes: usize, name| format!("| {offset:#05x} | {bytes} | `{name}` |");
        rows($heading, &[$(row(
            std::mem::offset_of!($type, $field),
            size_of_val(&zero.$field),
            stringify!($field),
        )),+]);
        let bytes: usize = [$(size_of_val(&zero.$field)),+].iter().sum();
        assert_eq!(bytes, size_of::<$type>(), "a field of {} is not listed", stringify!($type));
    }};
}

/// A section has a row for every number, with its name.
fn numbers(heading: &str, numbers: &[(u64, &str)]) {
    let row = |(number, name): &(u64, &str)| format!("| {number} | `{name}` |");
    rows(heading, &numbers.iter().map(row).collect::<Vec<_>>());
}

/// The same for bits.
fn bits(heading: &str, bits: &[(u64, &str)]) {
    let places = bits.iter().map(|(bit, name)| {
        assert!(bit.is_power_of_two(), "{name} is one bit");
        (u64::from(bit.ilog2()), *name)
    });
    numbers(heading, &places.collect::<Vec<_>>());
}

#[test]
fn registers() {
    fields!("### Registers", Registers: magic, version, offered, accepted, status, doorbell, event_mask, misdialled,
        hosts, vcpus, here, reserved, ticks_per_second, stats, events, segments, requests, memory);
    bits(
        "### Status",
        &[
            (status::READY.into(), "READY"),
            (status::IN_USE.into(), "IN_USE"),
            (status::FAILED.into(), "FAILED"),
        ],
    );
    bits(
        "### Features",
        &[
            (Features::HOSTS.0, "HOSTS"),
            (Features::VCPUS.0, "VCPUS"),
            (Features::REGIONS.0, "REGIONS"),
            (Features::HOT_PAGES.0, "HOT_PAGES"),
            (Features::EVENTS.0, "EVENTS"),
            (Features::MOVE.0, "MOVE"),
            (Features::LOCK.0, "LOCK"),
            (Features::PULL.0, "PULL"),
            (Features::HINTS.0, "HINTS"),
            (Features::SEGMENTS.0, "SEGMENTS"),
            (Features::EAGER_RELEASE.0, "EAGER_RELEASE"),
        ],
    );
    let text = specification();
    for magic in [MAGIC, SET_MAGIC, events::EVENTS_MAGIC, DIRECTORY_MAGIC] {
        let shown = format!("`{}`", String::from_utf8_lossy(&magic.to_le_bytes()));
        assert!(text.contains(&shown), "{shown} is not mentioned");
    }
}

#[test]
fn statistics() {
    fields!("### Set header", SetHeader: magic, version, host, reserved, this, vcpus, regions, hot_pages);
    fields!("### Table", Table: offset, stride, count);
    fields!("### Host", HostStats: written, name, machine, cpus, speed, load_mean, load_upper, memory_quota,
        memory_used, memory_free, state, memory_state, flags, vcpus, sent, received, links);
    fields!("### Link", LinkStats: round_trip_ns, reserved, bytes_per_second);
    fields!("### vCPU", VcpuStats: vcpu, flags, moves, last_blackout_ns, worst_blackout_ns, stalled_ns, resident_ns,
        faults);
    fields!("### Faults of a kind", FaultStats: total_ns, by_latency);
    fields!("### Hot page", HotPage: address, hosts, moves_per_second, moves);
    numbers(
        "### States of a host",
        &[
            (host_state::ABSENT.into(), "ABSENT"),
            (host_state::JOINING.into(), "JOINING"),
            (host_state::ONLINE.into(), "ONLINE"),
            (host_state::DRAINING.into(), "DRAINING"),
            (host_state::LOST.into(), "LOST"),
        ],
    );
    numbers(
        "### States of a host's memory",
        &[
            (memory_state::FREE.into(), "FREE"),
            (memory_state::LOW.into(), "LOW"),
            (memory_state::OUT.into(), "OUT"),
        ],
    );
    bits(
        "### Flags of a host",
        &[
            (host_flags::BLOCKED.into(), "BLOCKED"),
            (host_flags::STAY.into(), "STAY"),
            (host_flags::HOME.into(), "HOME"),
        ],
    );
    bits("### Flags of a vCPU", &[(vcpu_flags::HERE.into(), "HERE"), (vcpu_flags::LOCKED.into(), "LOCKED")]);
}

#[test]
fn events() {
    fields!("### Events header", events::Header: magic, version, capacity, reserved, written, disruption_marker,
        disruption_reason, zero);
    fields!("### Entry", Entry: when, kind, host, subject, code, others, value, zero);
    numbers(
        "### Kinds of events",
        &[
            (event_kind::VCPU_MOVED.into(), "VCPU_MOVED"),
            (event_kind::HOST_JOINED.into(), "HOST_JOINED"),
            (event_kind::HOST_DRAINING.into(), "HOST_DRAINING"),
            (event_kind::HOST_LOST.into(), "HOST_LOST"),
            (event_kind::MEMORY_LOW.into(), "MEMORY_LOW"),
            (event_kind::HOT_PAGE.into(), "HOT_PAGE"),
            (event_kind::ADVICE.into(), "ADVICE"),
            (event_kind::SEGMENT_BROKEN.into(), "SEGMENT_BROKEN"),
        ],
    );
    numbers(
        "### Disruptions",
        &[
            (events::disruption::NONE, "NONE"),
            (events::disruption::PAUSED, "PAUSED"),
            (events::disruption::RESTORED, "RESTORED"),
            (events::disruption::CLOCK, "CLOCK"),
            (events::disruption::HOST_LOST, "HOST_LOST"),
        ],
    );
}

#[test]
fn segments() {
    fields!("### Directory header", DirectoryHeader: magic, version, segments);
    fields!("### Segment", SegmentEntry: segment, state, consistency, owner, key, name, bytes, offset, attached, moves);
    numbers(
        "### States of a segment",
        &[
            (segment_state::NONE.into(), "NONE"),
            (segment_state::READY.into(), "READY"),
            (segment_state::REMOVED.into(), "REMOVED"),
            (segment_state::BROKEN.into(), "BROKEN"),
        ],
    );
}

#[test]
fn requests() {
    fields!("### Request", RequestFields: kind, code, vcpu, host, segment, address, bytes, key, name, zero);
    fields!("### Answer", ResponseFields: result, reason, detail, value, zero);
    numbers(
        "### Kinds of requests",
        &[
            (request_kind::MOVE_VCPU.into(), "MOVE_VCPU"),
            (request_kind::LOCK_VCPU.into(), "LOCK_VCPU"),
            (request_kind::UNLOCK_VCPU.into(), "UNLOCK_VCPU"),
            (request_kind::PULL_PAGES.into(), "PULL_PAGES"),
            (request_kind::HINT.into(), "HINT"),
            (request_kind::CREATE_SEGMENT.into(), "CREATE_SEGMENT"),
            (request_kind::ATTACH_SEGMENT.into(), "ATTACH_SEGMENT"),
            (request_kind::DETACH_SEGMENT.into(), "DETACH_SEGMENT"),
            (request_kind::RELEASE_SEGMENT.into(), "RELEASE_SEGMENT"),
            (request_kind::REMOVE_SEGMENT.into(), "REMOVE_SEGMENT"),
        ],
    );
    numbers(
        "### States of a slot",
        &[
            (slot::FREE, "FREE"),
            (slot::CLAIMED, "CLAIMED"),
            (slot::POSTED, "POSTED"),
            (slot::TAKEN, "TAKEN"),
            (slot::DONE, "DONE"),
        ],
    );
    let reasons: Vec<String> =
        Reason::ALL.iter().map(|reason| format!("| {} | `{reason:?}` |", reason.to_code())).collect();
    rows("### Reasons", &reasons);
}
