//! Every kind of frame, against bytes that nobody meant: they are understood or refused, and nothing else
//! happens.

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::Serialize;
use tessera_dsm::{Gfn, NodeId, Shard};

use super::ask::{Answer, Ask, GuestList, GuestStats, ListedGuest, LostGuest, Moved, Outcome};
use super::ending::{EndCause, StopReason};
use super::frame::{decode, encode, FrameError, FrameReader};
use super::guest::{tests::spec, GuestId};
use super::hello::{self, Channel, HelloError, Reply, Role};
use super::lifeline::{FromWorker, ToWorker};
use super::orders::{Arming, Image, Order, Report, Stage};
use super::peer::PeerFrame;
use super::stats::{FaultStats, NodeStats, Spread, VcpuStats};
use crate::host::HostOffer;

fn stats() -> NodeStats {
    let mut stats = NodeStats::empty(NodeId(1), "a:1".into());
    stats.faults.push(FaultStats {
        kind: "read".into(),
        latency: Spread { count: 1, mean_us: 0.5, ..Spread::default() },
    });
    let vcpu = VcpuStats {
        vcpu: 1,
        apic_id: 2,
        node: NodeId(1),
        moves: 3,
        last_blackout_us: 4,
        worst_blackout_us: 5,
    };
    stats.vcpus.push(vcpu);
    stats
}

fn orders() -> Vec<Order> {
    vec![
        Order::Configure(Box::new(spec(3))),
        Order::Connect,
        Order::Image { image: Image::Kernel, bytes: 7 },
        Order::Chunk(vec![1; 100]),
        Order::Load,
        Order::Arm(Arming { written: vec![(Gfn(1), 2)], guest_zero_tsc: 3 }),
        Order::Start,
        Order::Input(vec![2; 10]),
        Order::Stop,
    ]
}

fn reports() -> Vec<Report> {
    let (node, host, how) = (NodeId(1), "a:1".to_owned(), "reset".to_owned());
    vec![
        Report::Reached(Stage::Armed),
        Report::Loaded(Arming::default()),
        Report::Failed { stage: Stage::Loaded, why: "why".into() },
        Report::Console(b"text".to_vec()),
        Report::ConsoleLost { bytes: 1 },
        Report::InputTaken { bytes: 1 },
        Report::Alive,
        Report::Ended {
            cause: EndCause::NodeLost { node, host, how, pages_alone: Some(1) },
            stats: Box::new(stats()),
        },
    ]
}

fn outcomes() -> Vec<Outcome> {
    let whole =
        GuestStats { guest: spec(1).name, running_ms: 1, nodes: vec![stats()], silent: vec!["b:1".into()] };
    let moved = Moved { vcpu: 1, from: NodeId(0), to: NodeId(1), blackout_us: 2, bytes: 3 };
    vec![
        Ok(Answer::Stats(Box::new(whole))),
        Ok(Answer::Vcpus(stats().vcpus)),
        Ok(Answer::Moved(moved)),
        Err("no".into()),
    ]
}

fn peer_frames() -> Vec<PeerFrame> {
    let mut frames = vec![
        PeerFrame::Machine(vec![1, 2, 3]),
        PeerFrame::Alive { pages_alone: 1 },
        PeerFrame::ClockPing { sent: 1 },
        PeerFrame::ClockPong { sent: 1, there: 2 },
        PeerFrame::ClocksCompared,
        PeerFrame::Ask { id: 1, ask: Ask::MoveFromHere { vcpu: 1, to: NodeId(1) } },
        PeerFrame::Ending(EndCause::Stopped(StopReason::Command)),
    ];
    let answer = |outcome| PeerFrame::Answer { id: 1, outcome: Box::new(outcome) };
    frames.extend(outcomes().into_iter().map(answer));
    frames
}

fn guests() -> GuestList {
    let guest = ListedGuest {
        name: spec(1).name,
        id: "x".into(),
        stage: Stage::Running,
        node: Some(NodeId(0)),
        hosts: vec!["a:1".into()],
        pid: 1,
    };
    GuestList { guests: vec![guest], lost: vec![LostGuest { name: spec(1).name, how: "killed".into() }] }
}

fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(values: &[T]) {
    for value in values {
        let frame = encode(value).expect("encodes");
        assert_eq!(decode::<T>(&frame[4..]).expect("decodes"), *value);
    }
}

#[test]
fn every_frame_comes_out_as_it_went_in() {
    same(&orders());
    same(&reports());
    same(&outcomes());
    same(&peer_frames());
    same(&[guests()]);
    same(&[
        ToWorker::Peer { from: NodeId(1), channel: Channel::Data(Shard(3)) },
        ToWorker::Cli,
        ToWorker::Shutdown,
    ]);
    same(&[
        FromWorker::Configured { node: NodeId(1), hosts: vec!["a".into()] },
        FromWorker::Reached(Stage::Ended),
    ]);
}

/// Decodes as everything that can be decoded; a value must then bear what is done with it.
fn decode_all(bytes: &[u8]) {
    fn one<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        match decode::<T>(bytes) {
            Ok(value) => Some(value),
            Err(FrameError::Malformed { .. }) => None,
            Err(other) => panic!("not an answer to bytes: {other}"),
        }
    }
    if let Some(Order::Configure(spec)) = one::<Order>(bytes) {
        let _either = spec.check();
    }
    if let Some(Report::Ended { cause, .. }) = one::<Report>(bytes) {
        let _shown = (cause.exit_status(), cause.tidied().to_string());
    }
    one::<PeerFrame>(bytes);
    one::<Ask>(bytes);
    one::<Outcome>(bytes);
    one::<GuestList>(bytes);
    one::<HostOffer>(bytes);
    one::<ToWorker>(bytes);
    one::<FromWorker>(bytes);
    one::<Role>(bytes);
    one::<Reply>(bytes);
}

/// A stream that has these bytes, and then ends.
fn stream_of(bytes: &[u8]) -> std::os::unix::net::UnixStream {
    let (mut there, here) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    std::io::Write::write_all(&mut there, bytes).expect("written");
    here
}

fn soon() -> std::time::Instant {
    std::time::Instant::now() + std::time::Duration::from_secs(60)
}

#[test]
fn a_hello_is_told_from_garbage_and_from_other_versions() {
    let mut bytes = Vec::new();
    let role = Role::Peer { guest: GuestId(5), from: NodeId(31), channel: Channel::Control };
    hello::send(&mut bytes, &role).expect("written");
    assert_eq!(hello::receive(stream_of(&bytes), soon()).expect("a Hello"), role);
    for (from, shard, allowed) in [(31, 7, true), (31, 8, false), (32, 0, false)] {
        let mut bytes = Vec::new();
        let channel = Channel::Data(Shard(shard));
        let role = Role::Peer { guest: GuestId(5), from: NodeId(from), channel };
        hello::send(&mut bytes, &role).expect("written");
        assert_eq!(hello::receive(stream_of(&bytes), soon()).is_ok(), allowed, "{role:?}");
    }
    let mut other = bytes.clone();
    other[12] = 9;
    assert!(matches!(hello::receive(stream_of(&other), soon()), Err(HelloError::Version { theirs: 9 })));
    let mut wrong = bytes.clone();
    wrong[4] = b'T';
    assert!(matches!(hello::receive(stream_of(&wrong), soon()), Err(HelloError::Garbage)));
    assert!(matches!(
        hello::receive(stream_of(&bytes[..bytes.len() - 1]), soon()),
        Err(HelloError::Frame(_))
    ));
    assert!(matches!(hello::receive(stream_of(b"GET / HTTP/1.1\r\n"), soon()), Err(HelloError::Garbage)));
    let mut refusal = Vec::new();
    hello::reply(&mut refusal, &Reply::Refused("a\nb".into())).expect("written");
    let refused = hello::receive_reply(stream_of(&refusal), soon());
    assert!(matches!(refused, Err(HelloError::Refused(why)) if why == "a b"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn damaged_frames_are_refused_or_understood(
        kind in 0usize..3, which in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let pick = |frames: Vec<Vec<u8>>| frames[which.index(frames.len())].clone();
        let mut frame = match kind {
            0 => pick(orders().iter().map(|order| encode(order).expect("encodes")).collect()),
            1 => pick(reports().iter().map(|report| encode(report).expect("encodes")).collect()),
            _ => pick(peer_frames().iter().map(|peer| encode(peer).expect("encodes")).collect()),
        };
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        decode_all(&frame[4..]);
        decode_all(&frame[4..4 + cut.index(frame.len() - 3)]);
        // As a stream: what is not a frame ends in an error, without waiting or taking memory for what is
        // announced.
        let mut reader = FrameReader::new(stream_of(&frame));
        let _either = reader.read::<Order>(Some(soon()));
    }

    #[test]
    fn random_hellos_are_refused_or_understood(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), honest in any::<bool>(),
    ) {
        if honest && bytes.len() >= 16 {
            let length = bytes.len() as u32 - 4;
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4..16].copy_from_slice(b"tessera\n\x01\0\0\0");
        }
        let _either = hello::receive(stream_of(&bytes), soon());
        let _either = hello::receive_reply(stream_of(&bytes), soon());
    }
}
