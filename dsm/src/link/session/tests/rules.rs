//! What a session says and refuses, case by case.

use super::super::*;

const NOW: Micros = 7;

fn both() -> (Session, Session) {
    (Session::new(Side::Dials), Session::new(Side::Accepts))
}

/// Queues a frame of so many bytes and gives it to the link.
fn send(session: &mut Session, bytes: usize) -> Stamp {
    let stamp = session.stamp();
    session.queue(&vec![1; bytes]).expect("room");
    let pending = session.pending().iter().map(|part| part.len()).sum();
    session.took(pending);
    stamp
}

/// A pair whose link is broken, after the dialler got one frame of two.
fn broken() -> (Session, Session) {
    let (mut dials, mut accepts) = both();
    let first = send(&mut accepts, 40);
    send(&mut accepts, 50);
    dials.take_frame(first, 40).expect("the first");
    dials.broke(NOW);
    accepts.broke(NOW);
    (dials, accepts)
}

#[test]
fn the_node_with_the_higher_number_dials() {
    assert_eq!(Side::of(NodeId(2), NodeId(1)), Side::Dials);
    assert_eq!(Side::of(NodeId(1), NodeId(2)), Side::Accepts);
}

#[test]
fn a_resumed_session_goes_on_at_the_first_frame_that_was_not_taken() {
    let (mut dials, mut accepts) = broken();
    assert_eq!(accepts.redial(), None, "it is for the other to dial");
    let greeting = dials.redial().expect("it is down");
    assert_eq!(greeting, Greeting { epoch: Epoch(2), received: 40 });
    dials.dialled(Epoch(2)).expect("newer");
    assert!(!dials.has_pending(), "it does not know from where");
    accepts.accept(greeting, NOW).expect("newer");
    let answer = Greeting { epoch: Epoch(2), received: 0 };
    assert_eq!(accepts.pending().concat(), [answer.encode().to_vec(), vec![1; 50]].concat());
    accepts.took(10);
    assert_eq!(accepts.pending().concat().len(), 22 + 50);
    accepts.took(22 + 50);
    assert!(!accepts.has_pending());
    dials.greeted(answer).expect("as expected");
    assert!(dials.owes_confirmation(), "the other does not know yet that the link works");
    dials.take_frame(Stamp { seq: 40, ack: 0 }, 50).expect("the second");
    assert_eq!(dials.stamp(), Stamp { seq: 0, ack: 90 });
    assert!(!dials.owes_confirmation());
    assert_eq!(accepts.unconfirmed_bytes(), 50);
    assert_eq!(accepts.in_trouble_since(), Some(NOW));
    accepts.take_frame(Stamp { seq: 0, ack: 90 }, 32).expect("a confirmation");
    assert_eq!((accepts.unconfirmed_bytes(), accepts.in_trouble_since()), (0, None));
}

#[test]
fn trouble_lasts_until_a_link_is_seen_to_work() {
    let (mut dials, mut accepts) = broken();
    for epoch in 2..6 {
        let greeting = Greeting { epoch: Epoch(epoch), received: 40 };
        dials.dialled(greeting.epoch).expect("newer");
        accepts.accept(greeting, NOW + u64::from(epoch)).expect("newer");
        dials.broke(NOW + u64::from(epoch));
        accepts.broke(NOW + u64::from(epoch));
        assert_eq!((dials.in_trouble_since(), accepts.in_trouble_since()), (Some(NOW), Some(NOW)));
    }
}

#[test]
fn a_late_attempt_changes_nothing() {
    let (dials, mut accepts) = broken();
    let greeting = Greeting { epoch: Epoch(5), received: 40 };
    accepts.accept(greeting, NOW).expect("newer");
    let before = (dials.clone(), accepts.clone());
    for epoch in [0, 1, 4, 5] {
        let epoch = Epoch(epoch);
        let stale = Stale { offered: epoch, current: Epoch(5) };
        assert_eq!(accepts.accept(Greeting { epoch, received: 40 }, 99), Err(Refused::Stale(stale)));
    }
    let mut dials = dials;
    assert!(dials.dialled(Epoch(1)).is_err());
    assert_eq!((dials.clone(), accepts.clone()), before);
    // Who accepts does not dial, and the other way round.
    assert!(accepts.dialled(Epoch(9)).is_err());
    assert!(dials.accept(Greeting { epoch: Epoch(9), received: 0 }, NOW).is_err());
    assert_eq!((dials, accepts), before);
}

#[test]
fn who_contradicts_itself_is_refused() {
    let (mut dials, mut accepts) = broken();
    let greeting = |received| Greeting { epoch: Epoch(2), received };
    let refused = |result: Result<(), Refused>| match result {
        Err(Refused::Session(error)) => error,
        other => panic!("{other:?}"),
    };
    let never = SessionError::NeverSent { received: 91, queued: 90 };
    assert_eq!(refused(accepts.accept(greeting(91), NOW)), never);
    accepts.accept(greeting(90), NOW).expect("it may have got both");
    accepts.broke(NOW);
    let later = Greeting { epoch: Epoch(3), received: 89 };
    let forgotten = SessionError::Forgotten { received: 89, confirmed: 90 };
    assert_eq!(refused(accepts.accept(later, NOW)), forgotten);

    dials.dialled(Epoch(2)).expect("newer");
    assert_eq!(dials.take_frame(Stamp { seq: 40, ack: 0 }, 50), Err(SessionError::NoGreeting));
    let wrong = SessionError::WrongEpoch { expected: Epoch(2), found: Epoch(3) };
    assert_eq!(dials.greeted(Greeting { epoch: Epoch(3), received: 0 }), Err(wrong));
    let never = SessionError::NeverSent { received: 1, queued: 0 };
    assert_eq!(dials.greeted(greeting(1)), Err(never));
}

#[test]
fn a_frame_that_is_missing_or_comes_twice_is_refused_and_changes_nothing() {
    let (mut session, _) = both();
    send(&mut session, 100);
    let before = session.clone();
    for seq in [1, 32, u32::MAX] {
        let gap = SessionError::Gap { expected: 0, found: seq };
        assert_eq!(session.take_frame(Stamp { seq, ack: 0 }, 32), Err(gap));
    }
    let never = SessionError::NeverSent { received: 101, queued: 100 };
    assert_eq!(session.take_frame(Stamp { seq: 0, ack: 101 }, 32), Err(never));
    assert_eq!(session, before);
}

#[test]
fn a_confirmation_may_be_faster_than_the_thread_that_sends() {
    let (mut session, _) = both();
    session.queue(&[1; 100]).expect("room");
    // The link has all of it, and the peer has confirmed it, before whoever writes says so.
    session.take_frame(Stamp { seq: 0, ack: 100 }, 32).expect("next");
    session.took(100);
    assert!(!session.has_pending());
    session.queue(&[2; 10]).expect("room");
    assert_eq!(session.pending().concat(), [2; 10]);
}

#[test]
fn an_old_confirmation_takes_nothing_back() {
    let (mut session, _) = both();
    send(&mut session, 100);
    session.take_frame(Stamp { seq: 0, ack: 100 }, 32).expect("next");
    session.take_frame(Stamp { seq: 32, ack: 60 }, 32).expect("next, queued before the last one was");
    assert_eq!(session.unconfirmed_bytes(), 0);
    send(&mut session, 10);
    assert_eq!(session.unconfirmed_bytes(), 10);
}

#[test]
fn what_is_kept_is_bounded() {
    let (mut session, _) = both();
    let frame = vec![1; 4096];
    let mut frames = 0;
    let error = loop {
        match session.queue(&frame) {
            Ok(()) => frames += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(frames, UNCONFIRMED_BYTES_MAX / 4096);
    assert_eq!(error, SessionError::Congested { waiting: UNCONFIRMED_BYTES_MAX });
    let refused = session.queue_with(&frame, 10, |_| Ok::<(), ()>(()));
    assert_eq!(refused, Err(error));
    assert_eq!(session.unconfirmed_bytes(), UNCONFIRMED_BYTES_MAX);
}

#[test]
fn a_body_that_cannot_be_written_is_not_sent() {
    let (mut session, _) = both();
    assert_eq!(session.queue_with(&[1; 32], 4096, |_| Err("gone")), Ok(Err("gone")));
    assert!(!session.has_pending());
    assert_eq!(session.stamp().seq, 0);
}

#[test]
fn one_way_traffic_is_confirmed_now_and_then() {
    let (mut session, _) = both();
    let mut at = 0;
    while !session.owes_confirmation() {
        session.take_frame(Stamp { seq: at, ack: 0 }, 4096).expect("next");
        at += 4096;
    }
    assert_eq!(u64::from(at), CONFIRM_BYTES);
    assert_eq!(session.stamp().ack, at);
    assert!(!session.owes_confirmation());
}

#[test]
fn a_greeting_is_what_it_is_or_refused() {
    let greeting = Greeting { epoch: Epoch(0x0102_0304), received: 0x1122_3344_5566_7788 };
    let bytes = greeting.encode();
    assert_eq!(Greeting::decode(&bytes), Ok(greeting));
    for at in [0, 1, 2, 3, 16, 31] {
        let mut wrong = bytes;
        wrong[at] ^= 1;
        assert_eq!(Greeting::decode(&wrong), Err(SessionError::NoGreeting), "byte {at}");
    }
    assert!(is_idle(&IDLE) && !is_idle(&bytes));
    assert!(crate::wire::decode(&bytes).is_err() && crate::wire::decode(&IDLE).is_err());
}
