//! Guests that come up, live and end, with everybody playing by the rules.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use tessera_dsm::{Gfn, NodeId};

use super::fake::FakeBuilder;
use super::{ask, create, load, run_over, spec_over, Line, TestDaemon};
use crate::control::ask::{Answer, Ask, Pace};
use crate::control::ending::{EndCause, StopReason};
use crate::control::guest::GuestSpec;
use crate::control::hello::Role;
use crate::control::orders::{Arming, Image, Order, Report, Stage};
use crate::worker::clock::tsc;

fn until(mut condition: impl FnMut() -> bool) {
    let by = super::by();
    while !condition() {
        assert!(std::time::Instant::now() < by, "waited in vain");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn three_nodes_come_up_talk_and_end_together() {
    let builder = Arc::new(FakeBuilder::default());
    let (a, b, c) = (TestDaemon::start(&builder), TestDaemon::start(&builder), TestDaemon::start(&builder));
    let before = tsc();
    let (_, mut lines) = run_over(&[&a, &b, &c]);
    let machines: Vec<_> = (0..3).map(|node| builder.machine(NodeId(node))).collect();

    // The guest's clock started a moment ago, and is the same everywhere but for what the comparison cannot
    // tell.
    let guest_now = |node: usize| tsc().wrapping_add_signed(machines[node].guest_tsc_offset);
    assert!(guest_now(0) <= tsc() - before);
    for node in 1..3 {
        let apart = machines[node].guest_tsc_offset.abs_diff(machines[0].guest_tsc_offset);
        let skew_ns = machines[node].spec.nodes() as u64 * 1_000_000;
        assert!(apart < skew_ns * 10, "node {node} is {apart} cycles off");
    }

    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)] {
        machines[from].peers.send_machine(NodeId(to), vec![from as u8; 3]).expect("sent");
        let machine = builder.machine(NodeId(to));
        let expected = (NodeId(from as u8), vec![from as u8; 3]);
        until(|| machine.delivered.lock().expect("no panic").contains(&expected));
    }
    machines[0].events.console(b"bye");
    machines[0].events.ended(EndCause::PayloadExit(9));
    machines[0].events.ended(EndCause::Panic);
    let ends: Vec<_> = lines.iter_mut().map(Line::end).collect();
    assert!(ends.iter().all(|(cause, ..)| *cause == EndCause::PayloadExit(9)), "{ends:?}");
    assert_eq!((ends[0].1, ends[0].2), (3, 0), "the last of the console comes before the end");
}

#[test]
fn a_guest_stands_still_on_all_nodes_or_on_none() {
    let builder = Arc::new(FakeBuilder::default());
    let (a, b, c) = (TestDaemon::start(&builder), TestDaemon::start(&builder), TestDaemon::start(&builder));
    let _lines = run_over(&[&a, &b, &c]);
    let machines: Vec<_> = (0..3).map(|node| builder.machine(NodeId(node))).collect();
    let paused = || machines.iter().map(|machine| machine.paused.load(Ordering::SeqCst)).collect::<Vec<_>>();
    // Each node says for itself when it runs: until then it refuses.
    until(|| ask(&b, &Ask::Run(Pace::Still)) == Ok(Answer::Runs(Pace::Still)));
    assert_eq!(paused(), [true; 3]);
    assert_eq!(ask(&c, &Ask::Run(Pace::Going)), Ok(Answer::Runs(Pace::Going)));
    assert_eq!(paused(), [false; 3]);
    machines[2].restless.store(true, Ordering::SeqCst);
    let why = ask(&a, &Ask::Run(Pace::Still)).expect_err("one node cannot");
    assert!(why.contains(&c.address.to_string()) && why.contains("vCPU 0 still runs"), "{why}");
    assert_eq!(paused(), [false; 3]);
}

#[test]
fn users_are_answered_by_any_node_for_all() {
    let builder = Arc::new(FakeBuilder::default());
    let (a, b) = (TestDaemon::start(&builder), TestDaemon::start(&builder));
    let (_, mut lines) = run_over(&[&a, &b]);
    let Ok(Answer::Stats(stats)) = ask(&b, &Ask::Stats) else { panic!("no figures") };
    let owned: Vec<_> = stats.nodes.iter().map(|node| (node.node.0, node.memory.owned_pages)).collect();
    assert_eq!(owned, [(0, 70), (1, 71)]);
    until(|| {
        let Ok(Answer::Stats(stats)) = ask(&a, &Ask::Stats) else { panic!("no figures") };
        stats.nodes[1].clock.comparisons > 0
    });
    let Ok(Answer::Moved(moved)) = ask(&a, &Ask::Move { vcpu: 1, to: "0".into() }) else {
        panic!("not moved")
    };
    assert_eq!((moved.from, moved.to, moved.blackout_us), (NodeId(1), NodeId(0), 5));
    let no_stage = ask(&a, &Ask::Move { vcpu: 0, to: a.address.to_string() }).expect_err("is there");
    assert!(no_stage.contains("already is on"), "{no_stage}");
    assert_eq!(ask(&b, &Ask::Stop), Ok(Answer::Stopping));
    for line in &mut lines {
        assert_eq!(line.end().0, EndCause::Stopped(StopReason::Command));
    }
}

#[test]
fn console_input_is_acknowledged_as_the_guest_takes_it() {
    let builder = Arc::new(FakeBuilder::default());
    let a = TestDaemon::start(&builder);
    let (_, mut lines) = run_over(&[&a]);
    lines[0].send(&Order::Input(b"hello world".to_vec()));
    assert_eq!(lines[0].report(), Report::InputTaken { bytes: 11 });
    assert_eq!(*builder.machine(NodeId(0)).input.lock().expect("no panic"), b"hello world");
    lines[0].send(&Order::Stop);
    assert_eq!(lines[0].end().0, EndCause::Stopped(StopReason::Interrupt));
}

#[test]
fn power_button_and_devices_are_the_home_nodes_whoever_is_asked() {
    let builder = Arc::new(FakeBuilder::default());
    let (a, b) = (TestDaemon::start(&builder), TestDaemon::start(&builder));
    let (_, mut lines) = run_over(&[&a, &b]);
    assert_eq!(ask(&a, &Ask::PowerButton), Ok(Answer::Pressed));
    assert_eq!(ask(&b, &Ask::PowerButton), Ok(Answer::Pressed));
    for daemon in [&a, &b] {
        let Ok(Answer::Devices(devices)) = ask(daemon, &Ask::Devices) else { panic!("no devices") };
        assert_eq!((devices.len(), devices[0].node, devices[0].pages_fetched), (1, NodeId(0), 2));
    }
    let presses = |node| builder.machine(NodeId(node)).presses.load(Ordering::SeqCst);
    assert_eq!((presses(0), presses(1)), (2, 0));
    lines[0].send(&Order::Stop);
    assert_eq!(lines[0].end().0, EndCause::Stopped(StopReason::Interrupt));
}

#[test]
fn output_that_nobody_reads_is_bounded_counted_and_in_nobodys_way() {
    let builder = Arc::new(FakeBuilder::default());
    let a = TestDaemon::start(&builder);
    let (_, mut lines) = run_over(&[&a]);
    let machine = builder.machine(NodeId(0));
    const MIB: usize = 1 << 20;
    (0..64).for_each(|_| machine.events.console(&[b'x'; MIB / 2]));
    assert!(ask(&a, &Ask::Stats).is_ok(), "the guest answers though its console is stuck");
    assert_eq!(ask(&a, &Ask::Stop), Ok(Answer::Stopping));
    // As much as there is room for on the way may arrive; all of it is accounted for.
    let (cause, bytes, lost) = lines[0].end();
    assert_eq!(cause, EndCause::Stopped(StopReason::Command));
    assert_eq!(bytes as u64 + lost, 32 * MIB as u64);
    assert!(lost > 0);
}

#[test]
fn a_launcher_that_never_reads_does_not_keep_a_worker_alive() {
    let builder = Arc::new(FakeBuilder::default());
    let a = TestDaemon::start(&builder);
    let (_, lines) = run_over(&[&a]);
    let machine = builder.machine(NodeId(0));
    (0..64).for_each(|_| machine.events.console(&[b'x'; 1 << 19]));
    assert_eq!(ask(&a, &Ask::Stop), Ok(Answer::Stopping));
    until(|| ask_list(&a).is_empty());
    drop(lines);
}

fn ask_list(daemon: &TestDaemon) -> Vec<crate::control::ask::ListedGuest> {
    let list: crate::control::ask::GuestList = Line::dial(&daemon.address, &Role::List).read().expect("list");
    list.guests
}

#[test]
fn a_machine_that_never_halts_does_not_keep_a_worker_alive() {
    let builder = Arc::new(FakeBuilder::default());
    builder.halts_never.store(true, Ordering::SeqCst);
    let (a, b) = (TestDaemon::start(&builder), TestDaemon::start(&builder));
    let (_, mut lines) = run_over(&[&a, &b]);
    builder.machine(NodeId(0)).events.ended(EndCause::PowerOff);
    for line in &mut lines {
        assert_eq!(line.end().0, EndCause::PowerOff);
    }
    until(|| ask_list(&a).is_empty() && ask_list(&b).is_empty());
}

#[test]
fn a_lost_data_connection_without_explanation_is_a_lost_node() {
    let builder = Arc::new(FakeBuilder::default());
    let (a, b) = (TestDaemon::start(&builder), TestDaemon::start(&builder));
    let (spec, mut lines) = run_over(&[&a, &b]);
    until(|| {
        // A busy machine may not answer in time.
        matches!(ask(&a, &Ask::Stats), Ok(Answer::Stats(stats)) if stats.nodes[1].clock.comparisons > 1)
    });
    builder.machine(NodeId(0)).events.peer_lost(NodeId(1), "connection reset".into(), Some(3));
    let lost = EndCause::NodeLost {
        node: NodeId(1),
        host: spec.host_name(NodeId(1)),
        how: "connection reset".into(),
        pages_alone: Some(71),
    };
    for line in &mut lines {
        assert_eq!(line.end().0, lost);
    }
}

#[test]
fn a_node_that_cannot_go_on_says_why_to_all() {
    let builder = Arc::new(FakeBuilder::default());
    let (a, b) = (TestDaemon::start(&builder), TestDaemon::start(&builder));
    let (spec, mut lines) = run_over(&[&a, &b]);
    builder.machine(NodeId(1)).events.failed("KVM_RUN: EFAULT".into());
    for line in &mut lines {
        let what = "KVM_RUN: EFAULT".to_owned();
        assert_eq!(line.end().0, EndCause::Failed { node: NodeId(1), host: spec.host_name(NodeId(1)), what });
    }
}

#[test]
fn orders_that_make_no_sense_are_refused_at_each_stage() {
    let builder = Arc::new(FakeBuilder::default());
    let a = TestDaemon::start(&builder);
    let new = || {
        let spec = spec_over(&[&a]);
        let role = Role::Create { guest: spec.guest, name: spec.name.clone() };
        (Line::dial(&a.address, &role), spec)
    };
    let (mut line, _) = new();
    line.send(&Order::Start);
    line.expect_failed("another order than Configure");

    let (mut line, spec) = new();
    line.send(&Order::Configure(Box::new(GuestSpec { vcpus: vec![], ..spec })));
    line.expect_failed("1 to 255 vCPUs, not 0");

    builder.has_no_memory.store(true, Ordering::SeqCst);
    let (mut line, spec) = new();
    line.send(&Order::Configure(Box::new(spec)));
    line.expect_failed("no memory");
    builder.has_no_memory.store(false, Ordering::SeqCst);

    let spec = spec_over(&[&a]);
    let connected = || {
        let mut line = create(
            &GuestSpec { guest: crate::control::guest::GuestId::random().expect("id"), ..spec.clone() },
            NodeId(0),
        );
        line.send(&Order::Connect);
        line.expect_reached(Stage::Connected);
        line
    };
    let mut line = connected();
    line.send(&Order::Chunk(vec![1]));
    line.expect_failed("more bytes than were announced");
    let mut line = connected();
    line.send(&Order::Load);
    line.expect_failed("no kernel was sent");
    let mut line = connected();
    line.send(&Order::Image { image: Image::Kernel, bytes: u64::MAX });
    line.expect_failed("is larger than");
    for written in
        [vec![(Gfn(1 << 30), 1)], vec![(Gfn(0), u64::MAX)], vec![(Gfn(0), 0)], vec![(Gfn(0), 1); 5000]]
    {
        let mut line = connected();
        load(&mut line);
        line.send(&Order::Arm(Arming { written, guest_zero_tsc: 0 }));
        line.expect_failed("not guest memory");
    }
    until(|| ask_list(&a).is_empty());
}

#[test]
fn a_launcher_that_goes_away_at_any_stage_leaves_no_worker() {
    let builder = Arc::new(FakeBuilder::default());
    let (a, b) = (TestDaemon::start(&builder), TestDaemon::start(&builder));
    let spec = spec_over(&[&a, &b]);
    drop(Line::dial(&a.address, &Role::Create { guest: spec.guest, name: spec.name.clone() }));
    until(|| ask_list(&a).is_empty());
    drop(create(&spec_over(&[&a, &b]), NodeId(0)));
    until(|| ask_list(&a).is_empty());
    // While it waits for a node that never comes.
    let mut line = create(&spec_over(&[&a, &b]), NodeId(0));
    line.send(&Order::Connect);
    drop(line);
    until(|| ask_list(&a).is_empty());
    drop(run_over(&[&a, &b]));
    until(|| ask_list(&a).is_empty() && ask_list(&b).is_empty());
}
