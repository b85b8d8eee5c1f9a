//! Workers with a machine that only pretends, driven by a launcher and by peers that the tests play
//! themselves.

mod fake;
mod hostile;
mod lives;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::Serialize;
use tessera_dsm::link::session::Side;
use tessera_dsm::NodeId;

use crate::control::address::HostAddress;
use crate::control::ask::{Ask, Outcome};
use crate::control::ending::EndCause;
use crate::control::frame::{self, FrameError, FrameReader};
use crate::control::guest::{tests::spec, GuestId, GuestSpec};
use crate::control::hello::{Channel, Role};
use crate::control::line;
use crate::control::orders::{Arming, Image, Order, Report, Stage};
use crate::control::peer::PeerFrame;
use crate::control::socket;
use crate::daemon::{Daemon, DaemonOptions, Exposure, Stopper};
use fake::{FakeBuilder, ThreadSpawner};

/// Nothing here takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(60);

fn by() -> Instant {
    Instant::now() + HANG
}

/// A daemon in this process, whose workers are threads with fake machines.
struct TestDaemon {
    address: HostAddress,
    stopper: Stopper,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestDaemon {
    fn start(builder: &Arc<FakeBuilder>) -> TestDaemon {
        let listen = "127.0.0.1:0".parse().expect("address");
        let options = DaemonOptions { listen, exposure: Exposure::Loopback, guests_max: 4 };
        let daemon = Daemon::bind(&options, Box::new(ThreadSpawner(builder.clone()))).expect("bind");
        let (address, stopper) = (HostAddress::of(daemon.address()), daemon.stopper());
        let thread = std::thread::spawn(move || daemon.run().expect("runs"));
        TestDaemon { address, stopper, thread: Some(thread) }
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.stopper.stop();
        let ended = self.thread.take().map(|thread| thread.join().is_ok());
        assert!(ended != Some(false) || std::thread::panicking(), "the daemon panicked");
    }
}

/// One connection of frames.
struct Line {
    stream: TcpStream,
    reader: FrameReader<TcpStream>,
}

impl Line {
    fn dial(address: &HostAddress, role: &Role) -> Line {
        Line::of(socket::dial(address, role, by()).expect("welcome"))
    }

    fn of(stream: TcpStream) -> Line {
        let reader = FrameReader::new(stream.try_clone().expect("clone"));
        Line { stream, reader }
    }

    fn send<T: Serialize>(&mut self, value: &T) {
        frame::write(&mut self.stream, value).expect("written");
    }

    fn read<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        self.reader.read(Some(by()))
    }

    /// The next report that is not a sign of life.
    fn report(&mut self) -> Report {
        let by = by();
        loop {
            match self.reader.read(Some(by)).expect("a report") {
                Report::Alive => {}
                report => return report,
            }
        }
    }

    fn expect_reached(&mut self, stage: Stage) {
        assert_eq!(self.report(), Report::Reached(stage));
    }

    fn expect_failed(&mut self, part: &str) {
        match self.report() {
            Report::Failed { why, .. } => assert!(why.contains(part), "{part:?} is not in {why:?}"),
            other => panic!("not a failure: {other:?}"),
        }
    }

    /// Reads to the end; the cause, and how much console output came before it.
    fn end(&mut self) -> (EndCause, usize, u64) {
        let (mut bytes, mut lost) = (0, 0);
        loop {
            match self.report() {
                Report::Console(output) => bytes += output.len(),
                Report::ConsoleLost { bytes } => lost += bytes,
                Report::Ended { cause, .. } => return (cause, bytes, lost),
                other => panic!("not the end: {other:?}"),
            }
        }
    }
}

/// A control connection of a node that the test plays.
struct Control {
    stream: TcpStream,
    line: line::Line,
}

impl Control {
    /// The side that dials, over a connection that was welcomed.
    fn of(stream: TcpStream) -> Control {
        let line = line::Line::new(Side::Dials, stream.try_clone().expect("clone"));
        Control { stream, line }
    }

    fn send(&mut self, frame: &PeerFrame) {
        self.line.send(frame).expect("sent");
    }

    fn read(&mut self) -> Result<PeerFrame, FrameError> {
        self.line.reader().expect("clone").expect("a connection").read(Some(by()))
    }

    /// Connects anew to the daemon, as a node does.
    fn resume(&mut self, spec: &GuestSpec) {
        socket::hang_up(&self.stream);
        self.line.broke();
        let greeting = self.line.redial().expect("it is down");
        let (guest, from, channel) = (spec.guest, NodeId(1), Channel::Control);
        let role = Role::Resume { guest, from, channel, greeting };
        self.stream = socket::dial(&spec.hosts[0].address, &role, by()).expect("welcome");
        let stream = self.stream.try_clone().expect("clone");
        self.line.dialled(stream, greeting.epoch).expect("it waits for it");
    }
}

/// A guest's description over these daemons. The nodes claim to be different machines, so that clocks are
/// compared.
fn spec_over(daemons: &[&TestDaemon]) -> GuestSpec {
    let mut spec = spec(daemons.len() as u8);
    spec.guest = GuestId::random().expect("urandom");
    for (host, daemon) in spec.hosts.iter_mut().zip(daemons) {
        host.address = daemon.address.clone();
        host.boot_id = daemon.address.to_string();
    }
    spec
}

/// Starts a worker for `node` and gives it its description.
fn create(spec: &GuestSpec, node: NodeId) -> Line {
    let role = Role::Create { guest: spec.guest, name: spec.name.clone() };
    let mut line = Line::dial(&spec.hosts[node.index()].address, &role);
    line.send(&Order::Configure(Box::new(GuestSpec { me: node, ..spec.clone() })));
    line.expect_reached(Stage::Configured);
    line
}

/// Has node 0 load a kernel of three bytes.
fn load(home: &mut Line) -> Arming {
    home.send(&Order::Image { image: Image::Kernel, bytes: 3 });
    home.send(&Order::Chunk(b"ker".to_vec()));
    home.send(&Order::Load);
    match home.report() {
        Report::Loaded(arming) => arming,
        other => panic!("not loaded: {other:?}"),
    }
}

/// A guest that runs over these daemons, as the launcher sees it.
fn run_over(daemons: &[&TestDaemon]) -> (GuestSpec, Vec<Line>) {
    let spec = spec_over(daemons);
    let mut lines: Vec<Line> = (0..daemons.len() as u8).map(|node| create(&spec, NodeId(node))).collect();
    lines.iter_mut().for_each(|line| line.send(&Order::Connect));
    lines.iter_mut().for_each(|line| line.expect_reached(Stage::Connected));
    let arming = load(&mut lines[0]);
    lines.iter_mut().for_each(|line| line.send(&Order::Arm(arming.clone())));
    lines.iter_mut().for_each(|line| line.expect_reached(Stage::Armed));
    lines.iter_mut().for_each(|line| line.send(&Order::Start));
    lines.iter_mut().for_each(|line| line.expect_reached(Stage::Running));
    (spec, lines)
}

/// Asks a node as a user does.
fn ask(daemon: &TestDaemon, ask: &Ask) -> Outcome {
    let mut line = Line::dial(&daemon.address, &Role::Cli { guest: None });
    line.send(ask);
    line.read().expect("an outcome")
}

/// Connects as a node does.
fn connect_as(spec: &GuestSpec, from: NodeId, channel: Channel) -> Line {
    Line::dial(&spec.hosts[0].address, &Role::Peer { guest: spec.guest, from, channel })
}
