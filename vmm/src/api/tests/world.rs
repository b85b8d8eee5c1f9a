//! A desk whose world only pretends, and a main thread that does.

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tessera_dsm::NodeId;

use crate::api::body;
use crate::api::desk::{Desk, GuestLine, Next, World};
use crate::api::reply::Reply;
use crate::api::routes::Verb;
use crate::control::ask::{Answer, Ask, GuestStats, Moved};
use crate::control::ending::{EndCause, StopReason};
use crate::control::guest::LinkSpec;
use crate::control::stats::{DeviceStats, VcpuStats};
use crate::cpuid::AsyncFaults;
use crate::launch::request::{
    CpuRequest, EventFormat, MemoryRequest, OnReboot, PagerRequest, RunRequest, TableWritePolicy,
};

use super::openapi::Description;

/// Nothing here takes longer unless it hangs.
pub const HANG: Duration = Duration::from_secs(60);

/// What the main thread hears.
pub enum Heard {
    Woken,
    Interrupted,
    Ended(EndCause),
}

pub struct FakeWorld {
    heard: Mutex<Sender<Heard>>,
    asked: Arc<Mutex<Vec<Ask>>>,
}

impl World for FakeWorld {
    fn wake(&self) {
        let _over = self.heard.lock().expect("no panic").send(Heard::Woken);
    }

    fn interrupt(&self) {
        let _over = self.heard.lock().expect("no panic").send(Heard::Interrupted);
    }

    fn ask(&self, at: &GuestLine, ask: &Ask) -> Result<Answer, String> {
        assert_eq!(at, &line());
        self.asked.lock().expect("no panic").push(ask.clone());
        match ask {
            Ask::Stop => {
                let ended = Heard::Ended(EndCause::Stopped(StopReason::Command));
                let _over = self.heard.lock().expect("no panic").send(ended);
                Ok(Answer::Stopping)
            }
            &Ask::Run(pace) => Ok(Answer::Runs(pace)),
            Ask::PowerButton => Ok(Answer::Pressed),
            Ask::Vcpus => Ok(Answer::Vcpus(vec![VcpuStats {
                vcpu: 0,
                apic_id: 0,
                node: NodeId(1),
                moves: 2,
                last_blackout_us: 3,
                worst_blackout_us: 4,
            }])),
            &Ask::Move { vcpu: 1, .. } => {
                Ok(Answer::Moved(Moved { vcpu: 1, from: NodeId(0), to: NodeId(1), blackout_us: 5, bytes: 6 }))
            }
            Ask::Stats => Ok(Answer::Stats(Box::new(GuestStats {
                guest: at.guest.clone(),
                running_ms: 7,
                nodes: vec![],
                silent: vec!["b".into()],
            }))),
            Ask::Devices => Ok(Answer::Devices(vec![DeviceStats {
                name: "disk0".into(),
                slot: 1,
                node: NodeId(0),
                host: "a".into(),
                behind: "/images/root".into(),
                pages_borrowed: 3,
                pages_fetched: 2,
                remote_accesses: 1,
            }])),
            other => Err(format!("{other:?} is not for this guest")),
        }
    }

    fn check(&self, request: &RunRequest) -> Result<(), String> {
        match request.cpus.boot {
            Some(0) => Err("a guest has at least one vCPU".into()),
            _ => Ok(()),
        }
    }
}

fn line() -> GuestLine {
    GuestLine { host: "a".parse().expect("address"), guest: "web".parse().expect("name") }
}

pub fn template() -> RunRequest {
    RunRequest {
        name: None,
        hosts: vec![],
        kernel: None,
        initramfs: None,
        cmdline: String::new(),
        cpus: CpuRequest::default(),
        memory: MemoryRequest::default(),
        devices: vec![],
        lease_us: None,
        links: LinkSpec::default(),
        pagers: PagerRequest::default(),
        report: None,
        on_reboot: OnReboot::Restart,
        events: EventFormat::Log,
        table_writes: TableWritePolicy::Refuse,
        tsc_tolerance_ppm: 250,
        slow_clock: 1,
        async_faults: AsyncFaults::Hidden,
        worker_arguments: vec![],
    }
}

/// A desk with a main thread that starts guests whose kernel is not called `bad`.
pub struct Scene {
    pub desk: Arc<Desk<FakeWorld>>,
    pub description: Description,
    asked: Arc<Mutex<Vec<Ask>>>,
    heard: Sender<Heard>,
    main: Option<JoinHandle<Next>>,
}

impl Scene {
    pub fn new() -> Self {
        let (heard, hears) = channel();
        let asked = Arc::default();
        let world = FakeWorld { heard: Mutex::new(heard.clone()), asked: Arc::clone(&asked) };
        let desk = Arc::new(Desk::new(world, template()));
        let main = desk.clone();
        let main = Some(std::thread::spawn(move || attend(&main, &hears)));
        Scene { desk, description: Description::read(), asked, heard, main }
    }

    /// Asks for something, and holds the answer against the description.
    pub fn ask(&self, verb: Verb, body: &[u8]) -> Reply {
        let reply = self.desk.serve(verb, body);
        self.description.check_reply(verb, &reply);
        reply
    }

    /// The same with the description's own example.
    pub fn ask_example(&self, verb: Verb) -> Reply {
        self.ask(verb, &self.description.example(verb))
    }

    pub fn statuses(&self, verbs: &[Verb]) -> Vec<u16> {
        verbs.iter().map(|&verb| self.ask_example(verb).status).collect()
    }

    pub fn info(&self) -> body::VmInfo {
        let reply = self.ask(Verb::Info, b"");
        serde_json::from_value(reply.body.expect("a body")).expect("as it was written")
    }

    /// What the guest was asked.
    pub fn asked(&self) -> Vec<Ask> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }

    /// The guest ends by itself.
    pub fn end_guest(&self, cause: EndCause) {
        self.heard.send(Heard::Ended(cause)).expect("the main thread is there");
    }

    /// What the main thread ended with.
    pub fn end(mut self) -> Next {
        self.main.take().expect("once").join().expect("no panic")
    }
}

/// What the launcher's main thread does.
fn attend(desk: &Desk<FakeWorld>, hears: &Receiver<Heard>) -> Next {
    loop {
        if desk.wants_to_quit() {
            desk.close();
            return Next::Quit;
        }
        if let Some(request) = desk.to_start() {
            let next = live(desk, hears, &request);
            if matches!(next, Next::Exit | Next::Quit) {
                desk.close();
                return next;
            }
            continue;
        }
        hears.recv_timeout(HANG).expect("something to do");
    }
}

fn live(desk: &Desk<FakeWorld>, hears: &Receiver<Heard>, request: &RunRequest) -> Next {
    if request.kernel.as_deref() == Some("bad".as_ref()) {
        return desk.failed("the kernel bad is empty".into());
    }
    loop {
        desk.started(&line());
        let cause = loop {
            match hears.recv_timeout(HANG).expect("an end") {
                Heard::Ended(cause) => break cause,
                Heard::Woken | Heard::Interrupted => {}
            }
        };
        let next = desk.ended(&cause);
        if next != Next::Again {
            return next;
        }
    }
}
