//! QEMU's postcopy migration on the same machine: the nearest relative of a remote page fault that everybody can run.
//!
//! Two QEMUs, joined over loopback. A guest that touches 256 MiB at random is told to move before any of its memory has; what it
//! then touches is fetched on demand, by userfaultfd and a request over TCP as here. What the rest of its memory does
//! meanwhile is bounded ([`STREAM_BYTES`]), so that what waits is a fault and not the stream's backlog. That is QEMU at its best.

mod guest;
mod machine;
mod qmp;

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde::Serialize;
use serde_json::{json, Value};

use self::machine::{Accelerator, Machine, Side, Spec};
use super::times::{hundredths, median, Times};
use crate::cleanup::TemporaryDir;
use crate::lab::host;
use crate::{qemu, shell};

/// Loads that take longer have waited for a page.
const THRESHOLD: Duration = Duration::from_micros(20);
/// After each of them; as long as the payload's pause before each access.
const PAUSE: Duration = Duration::from_micros(100);
/// Migrations; each figure is the median of theirs.
const MIGRATIONS: usize = 3;
/// What is sent in a second before the guest moves: next to nothing.
const BEFORE_BYTES: u64 = 64 << 10;
/// What is sent in a second, beside what is asked for, once it has moved. Where both share a connection it has no bound: what is asked
/// for would wait for the bound too.
const STREAM_BYTES: u64 = 32 << 20;
/// Longer than a migration takes: a hang.
const LIMIT: Duration = Duration::from_secs(180);
/// How often a migration is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What came out, or why nothing did.
#[derive(Clone, Debug, Serialize)]
pub struct Postcopy {
    /// QEMU's version, if there is one.
    qemu: Option<String>,
    /// Why it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
    /// Why not with KVM, where it was measured without.
    #[serde(skip_serializing_if = "Option::is_none")]
    why_no_kvm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Seen>,
}

/// What was seen of some migrations.
#[derive(Clone, Debug, Serialize)]
struct Seen {
    accelerator: &'static str,
    /// Whether pages that are asked for have a connection of their own (`postcopy-preempt`).
    own_connection: bool,
    /// Loads of the guest that waited, by its time-stamp counter.
    guest: Times,
    /// Pages that the destination asked for, as QEMU counts them.
    requests: u64,
    /// The time that the vCPU stood still for pages, as QEMU counts it (`postcopy-vcpu-blocktime`).
    blocked_ms: u64,
    /// That, by request; the median.
    blocked_us_per_request: f64,
    /// What the version itself calls its page-fault latency (`postcopy-latency`), on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<f64>,
}

/// Measures it; that QEMU cannot do it here is an outcome too.
pub fn measure() -> Postcopy {
    let mut outcome = Postcopy { qemu: None, why_not: None, why_no_kvm: None, seen: None };
    let program = match program() {
        Ok((program, version)) => {
            outcome.qemu = Some(version);
            program
        }
        Err(error) => return Postcopy { why_not: Some(format!("{error:#}")), ..outcome },
    };
    match migrations(&program, Accelerator::Kvm) {
        Ok(seen) => return Postcopy { seen: Some(seen), ..outcome },
        Err(error) => outcome.why_no_kvm = Some(format!("{error:#}")),
    }
    match migrations(&program, Accelerator::Tcg) {
        Ok(seen) => outcome.seen = Some(seen),
        Err(error) => outcome.why_not = Some(format!("{error:#}")),
    }
    outcome
}

/// The machine's own QEMU, or the lab's; and its version.
fn program() -> Result<(PathBuf, String)> {
    const NAME: &str = "qemu-system-x86_64";
    let program = if shell::has_program(NAME) { NAME.into() } else { qemu::program()? };
    let said = shell::output(Command::new(&program).arg("--version"))?;
    let version = said.lines().next().unwrap_or_default().trim_start_matches("QEMU emulator version ");
    Ok((program, version.to_owned()))
}

/// Several migrations, each of a guest of its own.
fn migrations(program: &std::path::Path, accelerator: Accelerator) -> Result<Seen> {
    let all = (0..MIGRATIONS).map(|_| migrate(program, accelerator)).collect::<Result<Vec<_>>>()?;
    let of = |pick: fn(&Seen) -> f64| hundredths(median(all.iter().map(pick)));
    let guest: Vec<Times> = all.iter().map(|seen| seen.guest).collect();
    let latencies = all.iter().filter_map(|seen| seen.latency_us);
    Ok(Seen {
        accelerator: accelerator.name(),
        own_connection: all.iter().all(|seen| seen.own_connection),
        guest: Times::median(&guest),
        requests: all.iter().map(|seen| seen.requests).sum(),
        blocked_ms: all.iter().map(|seen| seen.blocked_ms).sum(),
        blocked_us_per_request: of(|seen| seen.blocked_us_per_request),
        latency_us: all.iter().all(|seen| seen.latency_us.is_some()).then(|| hundredths(median(latencies))),
    })
}

/// A guest starts, moves, and touches its memory.
fn migrate(program: &std::path::Path, accelerator: Accelerator) -> Result<Seen> {
    let dir = TemporaryDir::new("tessera-postcopy")?;
    let tsc_khz = host::tsc_khz()?;
    let image = dir.path().join("guest");
    std::fs::write(&image, guest::image(THRESHOLD, PAUSE, tsc_khz)).context("cannot write the guest")?;
    let spec = Spec { program, accelerator, image: &image, dir: dir.path() };
    let mut source = Machine::start(&spec, Side::Source)?;
    source.wait_ready()?;
    let mut destination = Machine::start(&spec, Side::Destination)?;
    let own_connection = prepare(&mut source, &mut destination)?;
    destination.qmp.order("migrate-incoming", &json!({ "uri": "tcp:127.0.0.1:0" }))?;
    let came = destination.qmp.order("query-migrate", &json!({}))?;
    let port = came["socket-address"][0]["port"].as_str().context("QEMU does not say where it listens")?;
    source.qmp.order("migrate", &json!({ "uri": format!("tcp:127.0.0.1:{port}") }))?;
    wait(&mut source, "active")?;
    source.qmp.order("migrate-start-postcopy", &json!({}))?;
    let sent = wait(&mut source, "completed")
        .with_context(|| format!("source: {}\ndestination: {}", source.said(), destination.said()))?;
    let received = wait(&mut destination, "completed")?;
    let said = guest::read(&destination.printed(), tsc_khz);
    ensure!(!said.wrong, "the guest saw a wrong value after QEMU had moved it");
    ensure!(!said.waits_ns.is_empty(), "the guest did not wait for any page");
    Ok(seen(accelerator, own_connection, &said, &sent, &received))
}

/// Switches on what is needed; whether pages that are asked for have a connection of their own.
fn prepare(source: &mut Machine, destination: &mut Machine) -> Result<bool> {
    let on = |name: &str| json!({ "capabilities": [{ "capability": name, "state": true }] });
    for side in [&mut *source, &mut *destination] {
        side.qmp.order("migrate-set-capabilities", &on("postcopy-ram"))?;
    }
    destination.qmp.order("migrate-set-capabilities", &on("postcopy-blocktime"))?;
    // Since QEMU 7.1; both sides or none.
    let own_connection = [&mut *source, &mut *destination]
        .into_iter()
        .all(|side| side.qmp.order("migrate-set-capabilities", &on("postcopy-preempt")).is_ok());
    let stream = if own_connection { STREAM_BYTES } else { 0 };
    let bounds = json!({ "max-bandwidth": BEFORE_BYTES, "max-postcopy-bandwidth": stream });
    source.qmp.order("migrate-set-parameters", &bounds)?;
    Ok(own_connection)
}

/// Waits until the migration has come to `status` or beyond it to `completed`; QEMU's answer then.
fn wait(side: &mut Machine, status: &str) -> Result<Value> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = side.qmp.order("query-migrate", &json!({}))?;
        match answer["status"].as_str().unwrap_or_default() {
            now if now == status => return Ok(answer),
            "failed" | "cancelled" | "postcopy-paused" => {
                bail!(
                    "the migration failed: {}",
                    answer["error-desc"].as_str().unwrap_or("QEMU does not say why")
                )
            }
            now if Instant::now() >= deadline => {
                bail!("the migration is {now:?} after {} s, and not {status:?}", LIMIT.as_secs())
            }
            _ => std::thread::sleep(LOOK),
        }
    }
}

fn seen(
    accelerator: Accelerator,
    own_connection: bool,
    said: &guest::Said,
    sent: &Value,
    received: &Value,
) -> Seen {
    let requests = sent["ram"]["postcopy-requests"].as_u64().unwrap_or(0);
    let blocked_ms = received["postcopy-vcpu-blocktime"][0].as_u64().unwrap_or(0);
    Seen {
        accelerator: accelerator.name(),
        own_connection,
        guest: Times::of_ns(&said.waits_ns),
        requests,
        blocked_ms,
        blocked_us_per_request: (blocked_ms * 1000) as f64 / requests.max(1) as f64,
        // In nanoseconds, since QEMU 10.1.
        latency_us: received["postcopy-latency"].as_f64().map(|ns| ns / 1000.0),
    }
}

impl fmt::Display for Postcopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.qemu.as_deref().unwrap_or("none found");
        writeln!(f, "QEMU's postcopy on this machine (QEMU {version})")?;
        if let Some(why) = &self.why_no_kvm {
            writeln!(f, "not with this machine's KVM: {why}")?;
        }
        if let Some(why) = &self.why_not {
            return writeln!(f, "not measured: {why}");
        }
        let Some(seen) = &self.seen else { return Ok(()) };
        let Times { count, p50_us, p99_us, mean_us } = seen.guest;
        let connection =
            if seen.own_connection { ", pages asked for have a connection of their own" } else { "" };
        writeln!(f, "accelerator {}{connection}", seen.accelerator)?;
        writeln!(f, "a load of the guest: p50 {p50_us:.1} us, p99 {p99_us:.1}, mean {mean_us:.1} ({count} that waited)")?;
        writeln!(
            f,
            "as QEMU counts: {} requests, {} ms blocked, {:.1} us each",
            seen.requests, seen.blocked_ms, seen.blocked_us_per_request
        )?;
        match seen.latency_us {
            Some(us) => writeln!(f, "postcopy-latency: {us:.1} us"),
            None => writeln!(f, "postcopy-latency: this version does not report it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_figures_are_read_whatever_its_version_reports() {
        let said = guest::Said { waits_ns: vec![100_000, 300_000], wrong: false };
        let sent = json!({ "status": "completed", "ram": { "postcopy-requests": 4 } });
        let older = seen(Accelerator::Tcg, true, &said, &sent, &json!({ "postcopy-vcpu-blocktime": [2] }));
        assert_eq!((older.requests, older.blocked_us_per_request, older.latency_us), (4, 500.0, None));
        assert_eq!(older.guest.p50_us, 100.0);
        let newer = seen(Accelerator::Kvm, false, &said, &sent, &json!({ "postcopy-latency": 250_500 }));
        assert_eq!((newer.blocked_ms, newer.latency_us), (0, Some(250.5)));
    }

    #[test]
    fn why_it_was_not_measured_is_said() {
        let outcome = Postcopy {
            qemu: None,
            why_not: Some("there is no QEMU".to_owned()),
            why_no_kvm: None,
            seen: None,
        };
        assert!(outcome.to_string().contains("not measured: there is no QEMU"));
        assert!(serde_json::to_value(&outcome).unwrap()["why_not"].is_string());
    }
}
