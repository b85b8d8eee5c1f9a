//! Does what the API is asked for.
//!
//! The server's threads ask here; the launcher's main thread, which alone starts guests and sees them end, comes by
//! and says how far it is. They meet in one small [state](State): what the guest is, how far it is, and what is wanted of it
//! when it ends. No lock is held while anything is waited for.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::json;

use super::body::{
    self, DiskConfig, FsConfig, MoveVcpu, NetConfig, Pong, RemoveDevice, VmConfig, VmInfo, VmState,
    VsockConfig,
};
use super::config::GuestConfig;
use super::reply::{Refusal, Reply};
use super::routes::Verb;
use crate::control::address::HostAddress;
use crate::control::ask::{Answer, Ask, Pace};
use crate::control::devices::DeviceSpec;
use crate::control::ending::EndCause;
use crate::control::guest::GuestName;
use crate::launch::request::{OnReboot, RunRequest};

/// Where a running guest can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestLine {
    /// A daemon that runs a part of it.
    pub host: HostAddress,
    /// Its name.
    pub guest: GuestName,
}

/// What the desk needs of the world.
pub trait World: Send + Sync {
    /// Wakes the launcher's main thread, if it waits for something to do.
    fn wake(&self);
    /// Gives up the start that is under way.
    fn interrupt(&self);
    /// Asks a running guest; an error is one line.
    ///
    /// # Errors
    /// When it does not answer, or says no.
    fn ask(&self, at: &GuestLine, ask: &Ask) -> Result<Answer, String>;
    /// Checks a description without asking any host; an error is one line.
    ///
    /// # Errors
    /// When there is something wrong with it.
    fn check(&self, request: &RunRequest) -> Result<(), String>;
}

/// How far a guest is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// It does not run.
    Created,
    /// It is to be started, or is being started.
    Starting,
    /// It runs.
    Running(GuestLine),
    /// It stands still.
    Paused(GuestLine),
    /// It runs, but has been told to end.
    Ending,
}

/// What is wanted when the guest has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Intent {
    /// What it says itself.
    Own,
    /// That it can be started again.
    Shutdown,
    /// That it is started again.
    Reboot,
    /// That all is over.
    Quit,
}

/// What the main thread is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Start the guest again.
    Again,
    /// Wait for something to do.
    Wait,
    /// End, with the guest's exit status.
    Exit,
    /// End, as it was asked to.
    Quit,
}

struct Guest {
    config: GuestConfig,
    phase: Phase,
}

struct State {
    guest: Option<Guest>,
    intent: Intent,
    /// Why the guest was not started.
    failure: Option<String>,
    /// The main thread does nothing more.
    is_over: bool,
}

/// Where the server's threads and the main thread meet.
pub struct Desk<W> {
    world: W,
    template: RunRequest,
    state: Mutex<State>,
    changed: Condvar,
}

impl<W: World> Desk<W> {
    /// No guest. What those that are created do not say is as in `template`.
    pub fn new(world: W, template: RunRequest) -> Self {
        let state = State { guest: None, intent: Intent::Own, failure: None, is_over: false };
        Desk { world, template, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A guest that is to be started at once: the template's.
    pub fn start_template(&self) {
        let config = GuestConfig::new(self.template.clone());
        self.lock().guest = Some(Guest { config, phase: Phase::Starting });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete when the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What the main thread says and asks.

    /// The guest that is to be started, if one is.
    pub fn to_start(&self) -> Option<RunRequest> {
        let state = self.lock();
        let guest = state.guest.as_ref().filter(|guest| guest.phase == Phase::Starting)?;
        Some(guest.config.request.clone())
    }

    /// Whether all is to be over.
    pub fn wants_to_quit(&self) -> bool {
        self.lock().intent == Intent::Quit
    }

    /// The guest runs.
    pub fn started(&self, line: &GuestLine) {
        let mut state = self.lock();
        let quits = state.intent == Intent::Quit;
        if let Some(guest) = &mut state.guest {
            guest.config.request.name = Some(line.guest.clone());
            guest.phase = if quits { Phase::Ending } else { Phase::Running(line.clone()) };
        }
        drop(state);
        if quits {
            self.tell_to_end(line);
        }
        self.changed.notify_all();
    }

    /// The guest was not started.
    pub fn failed(&self, why: String) -> Next {
        let mut state = self.lock();
        state.failure = Some(why);
        let next = if state.intent == Intent::Quit { Next::Quit } else { Next::Wait };
        self.rest(state);
        next
    }

    /// The guest has ended.
    pub fn ended(&self, cause: &EndCause) -> Next {
        let mut state = self.lock();
        let restarts = *cause == EndCause::Reset && self.template.on_reboot == OnReboot::Restart;
        match state.intent {
            Intent::Quit => Next::Quit,
            Intent::Shutdown => {
                self.rest(state);
                Next::Wait
            }
            Intent::Own if !restarts => Next::Exit,
            Intent::Own | Intent::Reboot => {
                state.intent = Intent::Own;
                state.guest.iter_mut().for_each(|guest| guest.phase = Phase::Starting);
                Next::Again
            }
        }
    }

    /// The guest rests.
    fn rest(&self, mut state: MutexGuard<'_, State>) {
        if state.intent != Intent::Quit {
            state.intent = Intent::Own;
        }
        state.guest.iter_mut().for_each(|guest| guest.phase = Phase::Created);
        drop(state);
        self.changed.notify_all();
    }

    /// The main thread does nothing more: nobody waits for it any longer.
    pub fn close(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    // What the server's threads ask.

    /// Does what a request asks for.
    pub fn serve(&self, verb: Verb, body: &[u8]) -> Reply {
        self.act(verb, body).unwrap_or_else(Reply::from)
    }

    fn act(&self, verb: Verb, body: &[u8]) -> Result<Reply, Refusal> {
        match verb {
            Verb::Ping => Reply::with(&Pong::of_this_process()),
            Verb::Quit => self.quit(),
            Verb::Create => self.create(&body::read::<VmConfig>(body)?),
            Verb::Delete => self.delete(),
            Verb::Boot => self.boot(),
            Verb::Shutdown => self.end(Intent::Shutdown),
            Verb::Reboot => self.end(Intent::Reboot),
            Verb::Pause => self.set_pace(Pace::Still),
            Verb::Resume => self.set_pace(Pace::Going),
            Verb::PowerButton => self.order(&Ask::PowerButton),
            Verb::Info => self.info(),
            Verb::Counters => self.counters(),
            Verb::AddDisk => {
                let disk = body::read::<DiskConfig>(body)?;
                self.add(disk.id.as_deref(), DeviceSpec::Disk(disk.spec()?))
            }
            Verb::AddNet => {
                let net = body::read::<NetConfig>(body)?;
                self.add(net.id.as_deref(), DeviceSpec::Net(net.spec()?))
            }
            Verb::AddVsock => {
                let vsock = body::read::<VsockConfig>(body)?;
                self.add(vsock.id.as_deref(), DeviceSpec::Vsock(vsock.spec()?))
            }
            Verb::AddFs => {
                let fs = body::read::<FsConfig>(body)?;
                self.add(fs.id.as_deref(), DeviceSpec::Folder(fs.spec()?))
            }
            Verb::RemoveDevice => {
                let RemoveDevice { id } = body::read(body)?;
                self.change(|config| config.remove(&id))
            }
            Verb::Vcpus => self.question(&Ask::Vcpus),
            Verb::MoveVcpu => {
                let MoveVcpu { vcpu, to } = body::read(body)?;
                self.question(&Ask::Move { vcpu, to })
            }
            Verb::Stats => self.question(&Ask::Stats),
            Verb::Devices => self.question(&Ask::Devices),
            Verb::Stop => self.order(&Ask::Stop),
        }
    }

    fn create(&self, body: &VmConfig) -> Result<Reply, Refusal> {
        let config = GuestConfig::from_body(body, &self.template)?;
        self.world.check(&config.request).map_err(Refusal::BadRequest)?;
        let mut state = self.lock();
        if state.guest.is_some() {
            return Err(Refusal::Conflict("there is a guest already: vm.delete makes room".into()));
        }
        state.guest = Some(Guest { config, phase: Phase::Created });
        Ok(Reply::done())
    }

    fn delete(&self) -> Result<Reply, Refusal> {
        if matches!(self.lock().guest()?.phase, Phase::Running(_) | Phase::Paused(_)) {
            self.end(Intent::Shutdown)?;
        }
        let mut state = self.lock();
        state.created()?;
        state.guest = None;
        Ok(Reply::done())
    }

    fn boot(&self) -> Result<Reply, Refusal> {
        let mut state = self.lock();
        state.created()?.phase = Phase::Starting;
        state.failure = None;
        drop(state);
        self.world.wake();
        self.await_rest_or_run()
    }

    /// Ends the guest, and waits for what is to come of it.
    fn end(&self, intent: Intent) -> Result<Reply, Refusal> {
        let mut state = self.lock();
        let line = state.line()?;
        state.intent = intent;
        state.failure = None;
        state.guest()?.phase = Phase::Ending;
        drop(state);
        self.tell_to_end(&line);
        self.await_rest_or_run()
    }

    fn tell_to_end(&self, line: &GuestLine) {
        // If it cannot be told, it is about to end by itself.
        if let Err(why) = self.world.ask(line, &Ask::Stop) {
            tracing::info!("the guest was not told to end: {why}");
        }
    }

    fn quit(&self) -> Result<Reply, Refusal> {
        let mut state = self.lock();
        state.intent = Intent::Quit;
        let phase = state.guest.as_ref().map(|guest| guest.phase.clone());
        match phase {
            Some(Phase::Running(line) | Phase::Paused(line)) => {
                state.guest()?.phase = Phase::Ending;
                drop(state);
                self.tell_to_end(&line);
            }
            Some(Phase::Starting) => {
                drop(state);
                self.world.interrupt();
            }
            Some(Phase::Created | Phase::Ending) | None => {
                drop(state);
                self.world.wake();
            }
        }
        let state = self.lock();
        let _over = self.changed.wait_while(state, |state| !state.is_over);
        Ok(Reply::done())
    }

    /// Waits until the guest runs or does not run.
    fn await_rest_or_run(&self) -> Result<Reply, Refusal> {
        let is_between = |state: &mut State| {
            let phase = state.guest.as_ref().map(|guest| &guest.phase);
            !state.is_over && matches!(phase, Some(Phase::Starting | Phase::Ending))
        };
        let state = self.changed.wait_while(self.lock(), is_between);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        match state.failure.take() {
            Some(why) => Err(Refusal::Failed(why)),
            None if state.is_over => Err(Refusal::Failed("the process that serves the API ends".into())),
            None => Ok(Reply::done()),
        }
    }

    fn set_pace(&self, pace: Pace) -> Result<Reply, Refusal> {
        let line = self.lock().line_at(pace)?;
        self.world.ask(&line, &Ask::Run(pace)).map_err(Refusal::Failed)?;
        // It may have ended, or have been started anew, meanwhile.
        if let Some(guest) = &mut self.lock().guest {
            match (&guest.phase, pace) {
                (Phase::Running(now), Pace::Still) if *now == line => guest.phase = Phase::Paused(line),
                (Phase::Paused(now), Pace::Going) if *now == line => guest.phase = Phase::Running(line),
                _ => {}
            }
        }
        Ok(Reply::done())
    }

    fn info(&self) -> Result<Reply, Refusal> {
        let mut state = self.lock();
        let guest = state.guest()?;
        let state = match guest.phase {
            Phase::Created => VmState::Created,
            Phase::Starting | Phase::Running(_) | Phase::Ending => VmState::Running,
            Phase::Paused(_) => VmState::Paused,
        };
        let memory_actual_size = guest.config.memory_bytes();
        Reply::with(&VmInfo { config: guest.config.body(), state, memory_actual_size })
    }

    /// What each device has done, by its name.
    fn counters(&self) -> Result<Reply, Refusal> {
        let Answer::Devices(devices) = self.answer(&Ask::Devices)? else { return Err(confused()) };
        let mut state = self.lock();
        let config = &state.guest()?.config;
        let mut counters = BTreeMap::new();
        for device in devices {
            // The first place on the bus is the bridge's.
            let index = usize::from(device.slot).wrapping_sub(1);
            let id = config.id_of(index).map_or(device.name, str::to_owned);
            let counts = json!({
                "pages_borrowed": device.pages_borrowed,
                "pages_fetched": device.pages_fetched,
                "remote_accesses": device.remote_accesses,
            });
            counters.insert(id, counts);
        }
        Reply::with(&counters)
    }

    fn add(&self, id: Option<&str>, device: DeviceSpec) -> Result<Reply, Refusal> {
        self.change(|config| config.add(id, device))
    }

    /// Changes the description of a guest that does not run, if what comes of it can be.
    fn change(&self, change: impl FnOnce(&mut GuestConfig) -> Result<(), Refusal>) -> Result<Reply, Refusal> {
        let mut state = self.lock();
        let guest = state.guest()?;
        if guest.phase != Phase::Created {
            return Err(Refusal::NotDone(
                "devices do not come and go while a guest runs: vm.shutdown it first".into(),
            ));
        }
        let mut config = guest.config.clone();
        change(&mut config)?;
        self.world.check(&config.request).map_err(Refusal::BadRequest)?;
        guest.config = config;
        Ok(Reply::done())
    }

    /// Asks the running guest.
    fn answer(&self, ask: &Ask) -> Result<Answer, Refusal> {
        let line = self.lock().line()?;
        self.world.ask(&line, ask).map_err(Refusal::Failed)
    }

    /// Gives the running guest an order.
    fn order(&self, ask: &Ask) -> Result<Reply, Refusal> {
        self.answer(ask).map(|_done| Reply::done())
    }

    /// Asks the running guest for what can be said as it is.
    fn question(&self, ask: &Ask) -> Result<Reply, Refusal> {
        match self.answer(ask)? {
            Answer::Vcpus(vcpus) => Reply::with(&vcpus),
            Answer::Moved(moved) => Reply::with(&moved),
            Answer::Stats(stats) => Reply::with(&stats),
            Answer::Devices(devices) => Reply::with(&devices),
            _ => Err(confused()),
        }
    }
}

impl State {
    fn guest(&mut self) -> Result<&mut Guest, Refusal> {
        self.guest.as_mut().ok_or_else(|| Refusal::NotFound("there is no guest: vm.create makes one".into()))
    }

    /// The guest, which does not run.
    fn created(&mut self) -> Result<&mut Guest, Refusal> {
        let guest = self.guest()?;
        match guest.phase {
            Phase::Created => Ok(guest),
            Phase::Starting => Err(Refusal::NotNow("the guest is being started".into())),
            Phase::Running(_) | Phase::Paused(_) => Err(Refusal::NotNow("the guest runs".into())),
            Phase::Ending => Err(Refusal::NotNow("the guest is about to end".into())),
        }
    }

    /// Where the guest, which runs or stands still, can be asked.
    fn line(&mut self) -> Result<GuestLine, Refusal> {
        match &self.guest()?.phase {
            Phase::Running(line) | Phase::Paused(line) => Ok(line.clone()),
            Phase::Created => Err(Refusal::NotNow("the guest does not run: vm.boot starts it".into())),
            Phase::Starting => Err(Refusal::NotNow("the guest is only just being started".into())),
            Phase::Ending => Err(Refusal::NotNow("the guest is about to end".into())),
        }
    }

    /// The same for a guest that is to stand still or to go on, and does not yet.
    fn line_at(&mut self, pace: Pace) -> Result<GuestLine, Refusal> {
        match (&self.guest()?.phase, pace) {
            (Phase::Paused(_), Pace::Still) => Err(Refusal::NotNow("the guest is paused already".into())),
            (Phase::Running(_), Pace::Going) => Err(Refusal::NotNow("the guest is not paused".into())),
            _ => self.line(),
        }
    }
}

fn confused() -> Refusal {
    Refusal::Failed("the guest answered something else".into())
}
