//! A worker whose peer is played by the test, and does what no node should.

use std::io::Write;
use std::sync::Arc;

use tessera_dsm::link::session::{Epoch, Greeting};
use tessera_dsm::pager::{Lane, Rejoin};
use tessera_dsm::{NodeId, Shard};

use super::fake::FakeBuilder;
use super::{by, connect_as, create, load, spec_over, Control, Line, TestDaemon};
use crate::control::address::HostAddress;
use crate::control::ask::{Answer, Ask, Outcome};
use crate::control::ending::{EndCause, StopReason};
use crate::control::frame;
use crate::control::guest::{GuestId, GuestSpec, PagerSpec};
use crate::control::hello::{Channel, HelloError, Role};
use crate::control::orders::{Order, Stage};
use crate::control::peer::PeerFrame;
use crate::control::socket;
use crate::worker::clock;

/// Node 0 of a guest whose node 1 is the test.
struct Scene {
    builder: Arc<FakeBuilder>,
    daemon: TestDaemon,
    spec: GuestSpec,
    launcher: Line,
    control: Control,
    _data: Vec<Line>,
}

impl Scene {
    /// The guest runs; the test has been a good node so far.
    fn running() -> Scene {
        Scene::running_with(|_| {})
    }

    /// The same, of a guest with something changed.
    fn running_with(change: impl FnOnce(&mut GuestSpec)) -> Scene {
        let builder = Arc::new(FakeBuilder::default());
        let daemon = TestDaemon::start(&builder);
        let mut spec = spec_over(&[&daemon, &daemon]);
        spec.hosts[1].boot_id = "another machine".into();
        change(&mut spec);
        let mut launcher = create(&spec, NodeId(0));
        launcher.send(&Order::Connect);
        let control = connect_as(&spec, NodeId(1), Channel::Control);
        let data = |shard| connect_as(&spec, NodeId(1), Channel::Data(shard));
        let data: Vec<Line> = spec.stripes().shards().map(data).collect();
        clock::compare_with_node0(&control.stream, by()).expect("compared");
        launcher.expect_reached(Stage::Connected);
        let arming = load(&mut launcher);
        launcher.send(&Order::Arm(arming));
        launcher.expect_reached(Stage::Armed);
        launcher.send(&Order::Start);
        launcher.expect_reached(Stage::Running);
        Scene { builder, daemon, spec, launcher, control: Control::of(control.stream), _data: data }
    }

    /// Asks until the question is not one too many.
    fn answer_to(&mut self, ask: &Ask) -> Outcome {
        for id in 5000.. {
            self.control.send(&PeerFrame::Ask { id, ask: ask.clone() });
            let outcome = loop {
                match self.control.read().expect("alive") {
                    PeerFrame::Answer { id: answered, outcome } if answered == id => break *outcome,
                    PeerFrame::Answer { .. } => {}
                    _ => self.control.send(&PeerFrame::Alive { pages_alone: 0 }),
                }
            };
            match outcome {
                Err(why) if why.contains("questions are open already") => {}
                outcome => return outcome,
            }
        }
        unreachable!("ids are many")
    }

    /// The guest must have been ended for a fault of node 1, said in these words.
    fn expect_blamed(mut self, part: &str) {
        match self.launcher.end().0 {
            EndCause::Failed { node: NodeId(1), what, .. } => {
                assert!(what.contains(part), "{part:?} is not in {what:?}");
            }
            other => panic!("node 1 is not blamed: {other:?}"),
        }
    }
}

#[test]
fn frames_that_are_none_end_the_guest_with_the_culprits_name() {
    let mut scene = Scene::running();
    scene.control.stream.write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff]).expect("written");
    scene.expect_blamed("not understood");

    let mut scene = Scene::running();
    let mut frame = vec![11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff];
    scene.control.stream.write_all(&frame).expect("written");
    scene.expect_blamed("not understood");

    // A frame that is not the next one, and one that confirms what nobody sent.
    let mut scene = Scene::running();
    frame[4] = 1;
    scene.control.stream.write_all(&frame).expect("written");
    scene.expect_blamed("something was lost or came twice");

    let mut scene = Scene::running();
    (frame[4], frame[10]) = (0, 0x7f);
    scene.control.stream.write_all(&frame).expect("written");
    scene.expect_blamed("it has received 0x7f0000");

    let mut scene = Scene::running();
    scene.control.stream.write_all(&u32::MAX.to_le_bytes()).expect("written");
    scene.expect_blamed("the most is 1048576");

    let mut scene = Scene::running();
    scene.control.send(&PeerFrame::ClockPong { sent: 1, there: 2 });
    scene.expect_blamed("a clock comparison that nobody asked for");

    let mut scene = Scene::running();
    scene.control.send(&PeerFrame::ClocksCompared);
    scene.expect_blamed("a clock comparison that nobody asked for");

    let mut scene = Scene::running();
    scene.control.send(&PeerFrame::Machine(b"nonsense".to_vec()));
    scene.expect_blamed("nonsense");
}

#[test]
fn a_message_for_a_machine_that_is_not_there_yet_is_a_fault() {
    let builder = Arc::new(FakeBuilder::default());
    let daemon = TestDaemon::start(&builder);
    let mut spec = spec_over(&[&daemon, &daemon]);
    spec.hosts[1].boot_id = "another machine".into();
    let mut launcher = create(&spec, NodeId(0));
    launcher.send(&Order::Connect);
    let control = connect_as(&spec, NodeId(1), Channel::Control);
    let _data = connect_as(&spec, NodeId(1), Channel::Data(Shard::FIRST));
    clock::compare_with_node0(&control.stream, by()).expect("compared");
    launcher.expect_reached(Stage::Connected);
    Control::of(control.stream).send(&PeerFrame::Machine(vec![]));
    launcher.expect_failed("a machine that is not there yet");
}

#[test]
fn a_peer_that_closes_and_does_not_come_back_is_lost_with_what_it_held() {
    let mut scene = Scene::running();
    scene.control.send(&PeerFrame::Alive { pages_alone: 12 });
    let begin = std::time::Instant::now();
    socket::hang_up(&scene.control.stream);
    let host = scene.spec.host_name(NodeId(1));
    // Its daemon says that it has a worker, for it is node 0's too here: so it is waited for.
    let how = "connection closed, and no new connection could be made".to_owned();
    assert_eq!(
        scene.launcher.end().0,
        EndCause::NodeLost { node: NodeId(1), host, how, pages_alone: Some(12) }
    );
    assert!(begin.elapsed() >= std::time::Duration::from_secs(3), "too early");
}

#[test]
fn a_peer_whose_host_has_no_worker_any_more_is_lost_at_once_with_what_the_directory_knows() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let elsewhere = TestDaemon::start(&Arc::new(FakeBuilder::default()));
    for host in [HostAddress::of(nobody), elsewhere.address.clone()] {
        let mut scene = Scene::running_with(|spec| {
            spec.hosts[1].address = host.clone();
            spec.links.lost_after_ms = 60_000;
        });
        socket::hang_up(&scene.control.stream);
        let how = "connection closed".to_owned();
        let lost =
            EndCause::NodeLost { node: NodeId(1), host: host.to_string(), how, pages_alone: Some(501) };
        assert_eq!(scene.launcher.end().0, lost);
    }
}

#[test]
fn a_control_connection_that_breaks_goes_on_where_it_was() {
    let mut scene = Scene::running();
    let machine = scene.builder.machine(NodeId(0));
    let (mut sent, mut came) = (vec![], vec![]);
    for round in 0..20u8 {
        for number in 0..3 {
            scene.control.send(&PeerFrame::Machine(vec![round, number]));
            sent.push((NodeId(1), vec![round, number]));
            machine.peers.send_machine(NodeId(1), vec![number, round]).expect("kept");
        }
        // Now and then the connection goes before the other side has read any of it.
        scene.control.resume(&scene.spec);
        while came.len() < 3 * usize::from(round) {
            if let PeerFrame::Machine(message) = scene.control.read().expect("a frame") {
                came.push(message);
            }
        }
    }
    let expected = |index: usize| vec![(index % 3) as u8, (index / 3) as u8];
    assert!(came.iter().enumerate().all(|(index, message)| *message == expected(index)), "{came:?}");
    while machine.delivered.lock().expect("no panic").len() < sent.len() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(*machine.delivered.lock().expect("no panic"), sent, "each once and in order");
    let Outcome::Ok(Answer::NodeStats(stats)) = scene.answer_to(&Ask::NodeStats) else {
        panic!("no figures")
    };
    // (The second may come before the first is taken; after that, each is read from.)
    assert!((19..=20).contains(&stats.traffic.links_resumed), "{}", stats.traffic.links_resumed);
    scene.launcher.send(&Order::Stop);
    assert_eq!(scene.launcher.end().0, EndCause::Stopped(StopReason::Interrupt));
}

#[test]
fn a_new_data_connection_goes_to_the_pager_of_its_shard() {
    let mut scene = Scene::running_with(|spec| spec.pagers = PagerSpec { most: 2, stripe_mib: 2 });
    let machine = scene.builder.machine(NodeId(0));
    let greeting = Greeting { epoch: Epoch(2), received: 77 };
    let guest = scene.spec.guest;
    let connect = |from, shard| {
        let role = Role::Resume { guest, from, channel: Channel::Data(shard), greeting };
        Line::dial(&scene.daemon.address, &role)
    };
    let mut stranger = connect(NodeId(31), Shard(1));
    assert!(stranger.read::<PeerFrame>().is_err(), "closed");
    let mut nowhere = connect(NodeId(1), Shard(2));
    assert!(nowhere.read::<PeerFrame>().is_err(), "the guest has two shards");
    let _kept = connect(NodeId(1), Shard(1));
    while machine.relinked.lock().expect("no panic").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let lane = Lane { peer: NodeId(1), shard: Shard(1) };
    let expected = [(lane, Rejoin::Accepted(greeting))];
    assert_eq!(*machine.relinked.lock().expect("no panic"), expected);
    scene.launcher.send(&Order::Stop);
    assert_eq!(scene.launcher.end().0, EndCause::Stopped(StopReason::Interrupt));
}

#[test]
fn a_peer_that_falls_silent_is_lost() {
    let mut scene = Scene::running();
    let begin = std::time::Instant::now();
    let EndCause::NodeLost { node: NodeId(1), how, pages_alone: Some(501), .. } = scene.launcher.end().0
    else {
        panic!("not lost")
    };
    assert_eq!(how, "nothing heard for 4 s");
    assert!(begin.elapsed() >= std::time::Duration::from_secs(3), "too early");
}

#[test]
fn an_ending_is_taken_over_but_not_its_control_characters() {
    let mut scene = Scene::running();
    let what = "a\nb\x1b]0;x\x07".to_owned() + &"y".repeat(1 << 16);
    scene.control.send(&PeerFrame::Ending(EndCause::Failed { node: NodeId(1), host: "h\r".into(), what }));
    match scene.launcher.end().0 {
        EndCause::Failed { what, host, .. } => {
            assert!(what.len() <= 1024 && !what.contains(char::is_control) && host == "h", "{what:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flood_of_questions_costs_only_who_asks() {
    let mut scene = Scene::running();
    for id in 0..2000 {
        scene.control.send(&PeerFrame::Ask { id, ask: Ask::NodeStats });
        if id % 50 == 0 {
            scene.control.send(&PeerFrame::Alive { pages_alone: 0 });
        }
    }
    // One node does not answer for others at another's request, nor stop the guest by a question.
    for ask in [Ask::Stats, Ask::Stop, Ask::Move { vcpu: 0, to: "1".into() }] {
        assert_eq!(scene.answer_to(&ask), Err("this is not asked by one node of another".into()));
    }
    let nowhere = Ask::MoveFromHere { vcpu: 0, to: NodeId(200) };
    assert_eq!(scene.answer_to(&nowhere), Err("the guest has no node 200".into()));
    scene.control.send(&PeerFrame::Answer { id: 77, outcome: Box::new(Ok(Answer::Stopping)) });
    scene.launcher.send(&Order::Stop);
    assert_eq!(scene.launcher.end().0, EndCause::Stopped(StopReason::Interrupt));
    drop((scene.builder, scene.daemon));
}

#[test]
fn strangers_and_second_connections_do_not_get_in() {
    let builder = Arc::new(FakeBuilder::default());
    let daemon = TestDaemon::start(&builder);
    let mut spec = spec_over(&[&daemon, &daemon]);
    spec.hosts[1].boot_id = "another machine".into();
    let mut launcher = create(&spec, NodeId(0));
    launcher.send(&Order::Connect);

    let wrong_guest = Role::Peer { guest: GuestId(1), from: NodeId(1), channel: Channel::Data(Shard::FIRST) };
    let refused = socket::dial(&daemon.address, &wrong_guest, by()).expect_err("no such guest");
    assert!(matches!(refused, HelloError::Refused(why) if why.starts_with("no guest ")));
    let out_of_range =
        Role::Peer { guest: spec.guest, from: NodeId(200), channel: Channel::Data(Shard::FIRST) };
    assert!(socket::dial(&daemon.address, &out_of_range, by()).is_err());
    let of_no_pager = Role::Peer { guest: spec.guest, from: NodeId(1), channel: Channel::Data(Shard(8)) };
    assert!(socket::dial(&daemon.address, &of_no_pager, by()).is_err());

    // A node that the guest does not have, itself, a pager that it does not have, and then one connection twice: all
    // closed, and nothing is confused.
    for from in [31, 2, 0] {
        assert!(connect_as(&spec, NodeId(from), Channel::Control).read::<PeerFrame>().is_err());
    }
    assert!(connect_as(&spec, NodeId(1), Channel::Data(Shard(1))).read::<PeerFrame>().is_err());
    let data = connect_as(&spec, NodeId(1), Channel::Data(Shard::FIRST));
    assert!(connect_as(&spec, NodeId(1), Channel::Data(Shard::FIRST)).read::<PeerFrame>().is_err());
    let control = connect_as(&spec, NodeId(1), Channel::Control);
    clock::compare_with_node0(&control.stream, by()).expect("compared");
    launcher.expect_reached(Stage::Connected);
    drop(data);
}

#[test]
fn a_peer_that_answers_no_clock_comparison_is_named() {
    let builder = Arc::new(FakeBuilder::default());
    let daemon = TestDaemon::start(&builder);
    let mut spec = spec_over(&[&daemon, &daemon]);
    spec.hosts[1].boot_id = "another machine".into();
    let mut launcher = create(&spec, NodeId(0));
    launcher.send(&Order::Connect);
    let mut control = connect_as(&spec, NodeId(1), Channel::Control);
    let _data = connect_as(&spec, NodeId(1), Channel::Data(Shard::FIRST));
    frame::write(&mut control.stream, &PeerFrame::Alive { pages_alone: 0 }).expect("written");
    launcher.expect_failed("cannot compare clocks with node 127.0.0.1");
}

#[test]
fn a_node_that_never_comes_is_named_with_where_it_should_have_come() {
    let builder = Arc::new(FakeBuilder::default());
    let daemon = TestDaemon::start(&builder);
    let spec = spec_over(&[&daemon, &daemon]);
    let mut launcher = create(&spec, NodeId(0));
    launcher.send(&Order::Connect);
    launcher
        .expect_failed(&format!("node {0} did not connect within 12 s: can it reach {0}?", daemon.address));
    let mut unreachable = spec_over(&[&daemon, &daemon]);
    unreachable.hosts[0].address = "127.0.0.1:1".parse().expect("address");
    let role = Role::Create { guest: unreachable.guest, name: unreachable.name.clone() };
    let mut launcher = Line::dial(&daemon.address, &role);
    launcher.send(&Order::Configure(Box::new(GuestSpec { me: NodeId(1), ..unreachable })));
    launcher.expect_reached(Stage::Configured);
    launcher.send(&Order::Connect);
    launcher.expect_failed("cannot connect to node 127.0.0.1:1: connection refused");
}
