//! A guest's lives: from the first look at its hosts to its last end, with a new life after each reset.

use std::cell::OnceCell;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::time::Instant;

use tracing::{info, warn};

use super::error::LaunchError;
use super::guest_run::{GuestRun, Outcome};
use super::inputs::Inputs;
use super::local_daemon::LocalDaemon;
use super::plan::{self, Plan};
use super::report::{self, LifeEvent, RunReport};
use super::request::RunRequest;
use super::session::{Event, Listening};
use super::survey::{self, Surveyed};
use super::terminal::{Console, RawMode};
use crate::api::desk::Next;
use crate::control::address::HostAddress;
use crate::control::ending::{EndCause, EXIT_ERROR};
use crate::control::guest::{GuestId, GuestName, GuestSpec};
use crate::host::signals;

/// Events that wait for the main thread.
const EVENTS_MAX: usize = 256;

/// Who follows a guest's lives.
pub(super) trait Watcher {
    /// A life has begun.
    fn started(&self, spec: &GuestSpec);
    /// A life has ended: what is to be done?
    fn ended(&self, cause: &EndCause) -> Next;
}

/// What is there once for all guests of this process: signals, and the terminal.
pub(super) struct Launcher {
    events: Receiver<Event>,
    event_tx: SyncSender<Event>,
    /// From the first guest on.
    terminal: OnceCell<(Listening, Option<RawMode>)>,
}

impl Launcher {
    /// Waits for signals from now on.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn new() -> Result<Self, LaunchError> {
        let (event_tx, events) = sync_channel(EVENTS_MAX);
        let signal_tx = event_tx.clone();
        signals::watch(move |signal| {
            // With a full queue the main thread is about to hear of an end anyway.
            let _full = signal_tx.try_send(Event::Signal(signal));
        })
        .map_err(LaunchError::local("cannot wait for signals"))?;
        Ok(Launcher { events, event_tx, terminal: OnceCell::new() })
    }

    /// What the main thread waits for.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Where to tell the main thread something.
    pub fn teller(&self) -> SyncSender<Event> {
        self.event_tx.clone()
    }

    /// Lets a guest live; its exit status, and what is to be done then.
    ///
    /// # Errors
    /// When it was not started.
    pub fn run(
        &self,
        request: &RunRequest,
        inputs: &Inputs,
        watcher: &dyn Watcher,
    ) -> Result<(u8, Next), LaunchError> {
        if !request.hosts.is_empty() {
            return self.run_on(&request.hosts, request, inputs, watcher);
        }
        let local = LocalDaemon::start(request)?;
        let hosts = [local.address().clone()];
        self.run_on(&hosts, request, inputs, watcher).map_err(LaunchError::on_this_machine)
    }

    /// The same on these hosts.
    fn run_on(
        &self,
        hosts: &[HostAddress],
        request: &RunRequest,
        inputs: &Inputs,
        watcher: &dyn Watcher,
    ) -> Result<(u8, Next), LaunchError> {
        let began = Instant::now();
        let hosts = survey(hosts, request)?;
        let survey_ms = began.elapsed().as_millis() as u64;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => made_up_name()?,
        };
        let plan = plan::make(request, &name, inputs.kind, &hosts)?;
        describe(&plan);
        let (mut lives, next) = self.live(request, &plan, inputs, watcher)?;
        if let Some(first) = lives.first_mut() {
            first.times.survey_ms = survey_ms;
        }
        Ok((conclude(request, &plan, &lives, next), next))
    }

    /// The terminal, in raw mode until this is dropped.
    fn terminal(&self) -> Result<&Listening, LaunchError> {
        if let Some((listening, _raw)) = self.terminal.get() {
            return Ok(listening);
        }
        let raw = RawMode::enter().map_err(LaunchError::local("cannot set up the terminal"))?;
        let console = Console::start(raw.is_some(), self.teller());
        let console = console.map_err(LaunchError::local("cannot start a thread"))?;
        let listening = Listening { events: self.teller(), console };
        Ok(&self.terminal.get_or_init(|| (listening, raw)).0)
    }

    /// Lets the guest live, and again as long as that is wanted.
    fn live(
        &self,
        request: &RunRequest,
        plan: &Plan,
        inputs: &Inputs,
        watcher: &dyn Watcher,
    ) -> Result<(Vec<Outcome>, Next), LaunchError> {
        let name = plan.template().name.to_string();
        let listening = self.terminal()?;
        let mut lives = Vec::new();
        loop {
            let started = |times: &report::BootTimes| {
                LifeEvent::Started { guest: &name, boot_ms: times.total_ms() }.tell(request.events);
                watcher.started(plan.template());
            };
            let life = GuestRun::run(plan, &inputs.files, &self.events, listening, started)?;
            listening.console.flush();
            LifeEvent::Ended {
                guest: &name,
                cause: &life.cause,
                message: life.cause.to_string(),
                ran_ms: life.ran.as_millis() as u64,
            }
            .tell(request.events);
            let next = watcher.ended(&life.cause);
            lives.push(life);
            if next != Next::Again {
                return Ok((lives, next));
            }
            LifeEvent::Restarting { guest: &name }.tell(request.events);
        }
    }
}

fn survey(hosts: &[HostAddress], request: &RunRequest) -> Result<Vec<Surveyed>, LaunchError> {
    let offers = survey::ask(hosts)?;
    for (host, offer) in &offers {
        let kvm = offer.kvm.as_ref().map_or_else(ToString::to_string, |kvm| kvm.kind.to_string());
        info!("host {host}: {}, {} CPUs, {} MiB free", kvm, offer.cpus, offer.memory_free_bytes >> 20);
    }
    let hosts = survey::judge(offers, request.table_writes, request.tsc_tolerance_ppm)?;
    let dropped = plan::dropped_features(&hosts);
    if !dropped.is_empty() {
        warn!("the guest does not get CPU features that not all hosts have: {}", dropped.join(", "));
    }
    Ok(hosts)
}

fn describe(plan: &Plan) {
    let spec = plan.template();
    for (index, host) in spec.hosts.iter().enumerate() {
        let here = |node: tessera_dsm::NodeId| node.index() == index;
        let pages: u64 =
            spec.layout.regions().iter().filter(|region| here(region.home)).map(|r| r.pages).sum();
        let vcpus = spec.vcpus.iter().filter(|vcpu| here(vcpu.node)).count();
        info!("node {index} on {}: {} MiB, {vcpus} vCPUs", host.address, pages >> 8);
    }
    info!("command line: {}", spec.cmdline);
}

/// Writes the report, says why the guest ended if it did not end by itself, and gives the exit status.
fn conclude(request: &RunRequest, plan: &Plan, lives: &[Outcome], next: Next) -> u8 {
    let Some(last) = lives.last() else { return EXIT_ERROR };
    let mut status = last.cause.exit_status();
    // An end that the API asked for needs no words.
    if !last.cause.is_guests_own() && next == Next::Exit {
        eprintln!("tessera: {}", last.cause);
    }
    if let (Some(path), Some(report)) = (&request.report, RunReport::new(plan.template(), lives)) {
        if let Err(error) = report.write(path) {
            eprintln!("tessera: cannot write the report {}: {error}", path.display());
            status = status.max(EXIT_ERROR);
        }
    }
    status
}

fn made_up_name() -> Result<GuestName, LaunchError> {
    let id = GuestId::random().map_err(LaunchError::local("cannot make up a name"))?;
    format!("guest-{id}")
        .parse()
        .map_err(|_| LaunchError::Options("cannot make up a name: give --name".into()))
}
