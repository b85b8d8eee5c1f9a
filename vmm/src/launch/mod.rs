//! `tessera run`: looks at everything that can be looked at before a host is touched, asks the hosts what
//! they have, makes the plan, brings the guest up, and is its console until it ends.

mod error;
mod guest_run;
mod inputs;
mod plan;
mod report;
pub mod request;
mod session;
mod survey;
mod terminal;

use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Instant;

use tracing::{info, warn};

pub use error::LaunchError;

use crate::control::address::HostAddress;
use crate::control::ending::{EndCause, EXIT_ERROR};
use crate::control::guest::GuestName;
use crate::control::orders::Image;
use crate::daemon::spawn::ProcessSpawner;
use crate::daemon::{Daemon, DaemonOptions, Exposure, Stopper};
use crate::host::signals;
use guest_run::{GuestRun, Outcome};
use inputs::{Input, KernelKind};
use plan::Plan;
use report::{LifeEvent, RunReport};
use request::{OnReboot, RunRequest};
use session::{Event, Listening};
use survey::Surveyed;
use terminal::{Console, RawMode};

/// Events that wait for the main thread.
const EVENTS_MAX: usize = 256;

/// Runs a guest to its end; the exit status. Ending signals must be blocked (see [`signals::block`]).
///
/// # Errors
/// When the guest was not started.
pub fn run(request: &RunRequest) -> Result<u8, LaunchError> {
    plan::check_request(request)?;
    let (inputs, kernel) = open_inputs(request)?;
    let (event_tx, events) = sync_channel(EVENTS_MAX);
    let signal_tx = event_tx.clone();
    signals::watch(move |signal| {
        // With a full queue the main thread is about to hear of an end anyway.
        let _full = signal_tx.try_send(Event::Signal(signal));
    })
    .map_err(LaunchError::local("cannot wait for signals"))?;

    if !request.hosts.is_empty() {
        return run_on(&request.hosts, request, &inputs, kernel, (&events, event_tx));
    }
    let local = LocalDaemon::start(request)?;
    let hosts = [local.address.clone()];
    run_on(&hosts, request, &inputs, kernel, (&events, event_tx)).map_err(LaunchError::on_this_machine)
}

/// Runs a guest on these hosts.
fn run_on(
    hosts: &[HostAddress],
    request: &RunRequest,
    inputs: &[Input],
    kernel: KernelKind,
    (events, event_tx): (&Receiver<Event>, SyncSender<Event>),
) -> Result<u8, LaunchError> {
    let began = Instant::now();
    let hosts = survey(hosts, request)?;
    let survey_ms = began.elapsed().as_millis() as u64;
    let name = match &request.name {
        Some(name) => name.clone(),
        None => made_up_name()?,
    };
    let plan = plan::make(request, &name, kernel, &hosts)?;
    describe(&plan);
    let mut lives = live(request, &plan, inputs, events, event_tx)?;
    if let Some(first) = lives.first_mut() {
        first.times.survey_ms = survey_ms;
    }
    Ok(conclude(request, &plan, &lives))
}

fn open_inputs(request: &RunRequest) -> Result<(Vec<Input>, KernelKind), LaunchError> {
    let kernel = Input::open(Image::Kernel, &request.kernel)?;
    let kind = kernel.kernel_kind()?;
    let mut inputs = vec![kernel];
    if let Some(path) = &request.initramfs {
        inputs.push(Input::open(Image::Initramfs, path)?);
    }
    Ok((inputs, kind))
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

/// Lets the guest live, and again after each reset if that is wanted.
fn live(
    request: &RunRequest,
    plan: &Plan,
    inputs: &[Input],
    events: &Receiver<Event>,
    event_tx: SyncSender<Event>,
) -> Result<Vec<Outcome>, LaunchError> {
    let name = plan.template().name.to_string();
    let raw = RawMode::enter().map_err(LaunchError::local("cannot set up the terminal"))?;
    let console = Console::start(raw.is_some(), event_tx.clone());
    let console = console.map_err(LaunchError::local("cannot start a thread"))?;
    let listening = Listening { events: event_tx, console };
    let mut lives = Vec::new();
    loop {
        let started = |times: &report::BootTimes| {
            LifeEvent::Started { guest: &name, boot_ms: times.total_ms() }.tell(request.events);
        };
        let life = GuestRun::run(plan, inputs, events, &listening, started)?;
        listening.console.flush();
        LifeEvent::Ended {
            guest: &name,
            cause: &life.cause,
            message: life.cause.to_string(),
            ran_ms: life.ran.as_millis() as u64,
        }
        .tell(request.events);
        let again = life.cause == EndCause::Reset && request.on_reboot == OnReboot::Restart;
        lives.push(life);
        if !again {
            return Ok(lives);
        }
        LifeEvent::Restarting { guest: &name }.tell(request.events);
    }
}

/// Writes the report, says why the guest ended if it did not end by itself, and gives the exit status.
fn conclude(request: &RunRequest, plan: &Plan, lives: &[Outcome]) -> u8 {
    let Some(last) = lives.last() else { return EXIT_ERROR };
    let mut status = last.cause.exit_status();
    if !last.cause.is_guests_own() {
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
    let id = crate::control::guest::GuestId::random().map_err(LaunchError::local("cannot make up a name"))?;
    format!("guest-{id}")
        .parse()
        .map_err(|_| LaunchError::Options("cannot make up a name: give --name".into()))
}

/// The daemon of a guest that runs on this machine alone.
struct LocalDaemon {
    address: HostAddress,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl LocalDaemon {
    fn start(request: &RunRequest) -> Result<LocalDaemon, LaunchError> {
        let any_port = "127.0.0.1:0".parse().map_err(crate::daemon::DaemonError::Address)?;
        let options = DaemonOptions { listen: any_port, exposure: Exposure::Loopback, guests_max: 1 };
        let spawner = ProcessSpawner::this_program(request.worker_arguments.clone());
        let daemon = Daemon::bind(&options, Box::new(spawner))?;
        let (address, stopper) = (HostAddress::of(daemon.address()), daemon.stopper());
        let serve = move || {
            if let Err(error) = daemon.run() {
                warn!("{error}");
            }
        };
        let thread = std::thread::Builder::new().name("daemon".into()).spawn(serve);
        let thread = thread.map_err(LaunchError::local("cannot start a thread"))?;
        Ok(LocalDaemon { address, stopper, thread: Some(thread) })
    }
}

impl Drop for LocalDaemon {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}
