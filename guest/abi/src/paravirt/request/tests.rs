extern crate std;

use core::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::slot::{self, SLOT_WORDS};
use super::*;
use crate::paravirt::segments::SEGMENT_BYTES_MAX;
use crate::paravirt::Features;

const LIMITS: Limits = Limits { vcpus: 8, hosts: 3, address_end: 4 << 30, features: Features::ALL };

fn name(text: &str) -> SegmentName {
    SegmentName::Name(Name::new(text).expect("a name"))
}

fn requests() -> [Request; 10] {
    [
        Request::MoveVcpu { vcpu: Vcpu::This, host: 2 },
        Request::LockVcpu { vcpu: Vcpu::Number(7) },
        Request::UnlockVcpu { vcpu: Vcpu::Number(0) },
        Request::PullPages { address: 0x7000, bytes: 0x3000, host: 1 },
        Request::Hint { vcpu: Vcpu::This, hint: Hint::DecayFast },
        Request::CreateSegment {
            by: SegmentName::Key(9),
            bytes: 8192,
            consistency: Consistency::EagerRelease,
        },
        Request::AttachSegment { by: name("heap") },
        Request::DetachSegment { segment: 255 },
        Request::ReleaseSegment { segment: 0 },
        Request::RemoveSegment { segment: 3 },
    ]
}

fn refused(fields: RequestFields) -> Malformed {
    Request::decode(&fields, &LIMITS).expect_err("malformed")
}

fn wrong(field: Field) -> Malformed {
    Malformed::Field(field)
}

#[test]
fn every_kind_of_request_survives_its_slot_and_has_the_next_number() {
    for (number, request) in requests().into_iter().enumerate() {
        let fields = request.encode();
        assert_eq!(usize::from(fields.kind), number + 1);
        assert_eq!(Request::decode(&fields, &LIMITS), Ok(request));
    }
    assert_eq!(refused(RequestFields { kind: 0, ..RequestFields::ZERO }), Malformed::Kind(0));
    assert_eq!(refused(RequestFields { kind: 11, ..RequestFields::ZERO }), Malformed::Kind(11));
}

#[test]
fn a_field_that_a_kind_does_not_use_must_be_zero() {
    let unused = [
        (RequestFields { code: 1, ..requests()[0].encode() }, Field::Code),
        (RequestFields { host: 1, ..requests()[1].encode() }, Field::Host),
        (RequestFields { segment: 1, ..requests()[2].encode() }, Field::Segment),
        (RequestFields { vcpu: 1, ..requests()[3].encode() }, Field::Vcpu),
        (RequestFields { address: 4096, ..requests()[4].encode() }, Field::Address),
        (RequestFields { host: 1, ..requests()[5].encode() }, Field::Host),
        (RequestFields { bytes: 4096, ..requests()[6].encode() }, Field::Bytes),
        (RequestFields { key: 1, ..requests()[7].encode() }, Field::Key),
        (RequestFields { name: Name([1; 32]), ..requests()[8].encode() }, Field::Name),
        (RequestFields { zero: 1, ..requests()[9].encode() }, Field::Zero),
    ];
    for (fields, field) in unused {
        assert_eq!(refused(fields), wrong(field), "{fields:?}");
    }
}

#[test]
fn vcpus_hosts_and_segments_must_exist() {
    let vcpu = |vcpu| RequestFields { vcpu, ..requests()[1].encode() };
    assert_eq!(refused(vcpu(8)), wrong(Field::Vcpu));
    assert_eq!(refused(vcpu(u32::MAX - 1)), wrong(Field::Vcpu));
    let host = |host| RequestFields { host, ..requests()[0].encode() };
    assert_eq!(refused(host(3)), wrong(Field::Host));
    assert_eq!(refused(host(u32::MAX)), wrong(Field::Host));
    let segment = |segment| RequestFields { segment, ..requests()[7].encode() };
    assert_eq!(refused(segment(256)), wrong(Field::Segment));
    assert_eq!(refused(segment(u32::MAX)), wrong(Field::Segment));
}

#[test]
fn pulled_pages_are_whole_not_too_many_and_inside_the_guest() {
    let pull = |address, bytes| {
        let fields = RequestFields { kind: kind::PULL_PAGES, address, bytes, ..RequestFields::ZERO };
        Request::decode(&fields, &LIMITS).map(drop)
    };
    let end = LIMITS.address_end;
    assert_eq!(pull(end - 4096, 4096), Ok(()));
    assert_eq!(pull(0, PULL_PAGES_MAX * 4096), Ok(()));
    assert_eq!(pull(1, 4096), Err(wrong(Field::Address)));
    assert_eq!(pull(end, 4096), Err(wrong(Field::Address)));
    assert_eq!(pull(!4095, 4096), Err(wrong(Field::Address)));
    for bytes in [0, 1, 4097, (PULL_PAGES_MAX + 1) * 4096, u64::MAX, !4095] {
        assert_eq!(pull(0x1000, bytes), Err(wrong(Field::Bytes)), "{bytes:#x}");
    }
    assert_eq!(pull(end - 4096, 8192), Err(wrong(Field::Bytes)), "beyond the end");
}

#[test]
fn segments_have_a_key_or_a_name_a_size_and_a_consistency() {
    let good = requests()[5].encode();
    let both = RequestFields { name: Name::new("a").expect("a name"), ..good };
    assert_eq!(refused(both), wrong(Field::Name));
    assert_eq!(refused(RequestFields { key: 0, ..good }), wrong(Field::Key));
    let mut bad_name = RequestFields { key: 0, name: Name([b'a'; 32]), ..good };
    assert!(Request::decode(&bad_name, &LIMITS).is_ok(), "a name as long as its field");
    for byte in [0, b' ', 0x80, 0xff] {
        bad_name.name.0[7] = byte;
        assert_eq!(refused(bad_name), wrong(Field::Name), "{byte:#x} in the middle");
    }
    for bytes in [0, 1, 4095, SEGMENT_BYTES_MAX + 4096, u64::MAX] {
        assert_eq!(refused(RequestFields { bytes, ..good }), wrong(Field::Bytes));
    }
    for code in [0, 3, 0x101, u16::MAX] {
        assert_eq!(refused(RequestFields { code, ..good }), wrong(Field::Code));
    }
}

#[test]
fn what_was_not_accepted_cannot_be_asked_for() {
    for request in requests() {
        let needed = request.needs();
        let only = |features| Limits { features, ..LIMITS };
        assert_eq!(Request::decode(&request.encode(), &only(needed)), Ok(request));
        let without = only(Features(!needed.0));
        assert_eq!(Request::decode(&request.encode(), &without), Err(Malformed::NotAccepted(needed)));
    }
    let strict = Request::CreateSegment { by: name("a"), bytes: 4096, consistency: Consistency::Strict };
    assert_eq!(strict.needs(), Features::SEGMENTS);
}

#[test]
fn hints_and_reasons_have_their_numbers() {
    for (number, hint) in Hint::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(hint.to_code()), number + 1);
        assert_eq!(Hint::from_code(hint.to_code()), Some(hint));
    }
    assert_eq!([0, 7, u16::MAX].map(Hint::from_code), [None; 3]);
    for (number, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(reason.to_code()), number + 1);
        assert_eq!(Reason::from_code(reason.to_code()), Some(reason));
    }
    assert_eq!([0, 26, u16::MAX].map(Reason::from_code), [None; 3]);
}

#[test]
fn every_answer_survives_its_slot() {
    let answers = [
        Answer::Done(7),
        Answer::Refused(Reason::Locked),
        Answer::Failed(Reason::HostLost),
        Answer::Malformed(Field::Bytes as u32),
        Answer::Unsupported(Features::MOVE.0),
    ];
    for answer in answers {
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }
    assert_eq!(Answer::decode(&ResponseFields::default()), None);
    let unknown = ResponseFields { result: 2, reason: 999, ..ResponseFields::default() };
    assert_eq!(Answer::decode(&unknown), None, "a reason of a later version");
    let malformed = [Malformed::Kind(99), Malformed::NotAccepted(Features::PULL), wrong(Field::Key)];
    let expected = [Answer::Unsupported(0), Answer::Unsupported(Features::PULL.0), Answer::Malformed(8)];
    assert_eq!(malformed.map(Answer::from), expected);
}

fn area(slots: usize) -> Vec<AtomicU64> {
    (0..slots * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn a_request_goes_through_its_slot_and_the_slot_is_free_again() {
    let area = area(2);
    let request = requests()[3];
    let at = |number| slot::find(&area, number).expect("there");
    assert!(slot::find(&area, 2).is_none() && slot::find(&area, u32::MAX).is_none());
    assert_eq!(at(1).take(), None, "nothing is posted");
    let posted = at(1).post(&request).expect("free");
    assert!(at(1).post(&request).is_none(), "in use");
    assert_eq!(posted.number(), 1);
    assert!(!posted.is_done());
    let posted = posted.answer().expect_err("no answer yet");
    let fields = at(1).take().expect("posted");
    assert_eq!(Request::decode(&fields, &LIMITS), Ok(request));
    assert_eq!(at(1).take(), None, "taken once");
    at(1).answer(Answer::Refused(Reason::NotMemory));
    assert!(posted.is_done());
    let answer = posted.answer().expect("answered");
    assert_eq!(Answer::decode(&answer), Some(Answer::Refused(Reason::NotMemory)));
    assert!(at(1).post(&request).is_some(), "free again");
    assert_eq!(area[0].load(Ordering::Relaxed), slot::FREE, "the other slot was not touched");
    assert_eq!(area[2 * SLOT_WORDS - 1].load(Ordering::Relaxed), 0);
}

#[test]
fn of_threads_that_want_one_slot_one_gets_it() {
    let area = area(1);
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| slot::find(&area, 0).and_then(|slot| slot.post(&requests()[0])).is_some())
            })
            .collect();
        threads.into_iter().map(|thread| usize::from(thread.join().expect("no panic"))).sum()
    });
    assert_eq!(won, 1);
}

fn any_fields() -> impl Strategy<Value = RequestFields> {
    let bytes = proptest::collection::vec(any::<u8>(), size_of::<RequestFields>());
    let read = |bytes: Vec<u8>| RequestFields::read_from_bytes(&bytes).expect("the right length");
    (bytes, 0..12u16).prop_map(move |(bytes, kind)| RequestFields { kind, ..read(bytes) })
}

/// A good request with one byte changed.
fn nearly_good() -> impl Strategy<Value = RequestFields> {
    (0..10usize, 0..size_of::<RequestFields>(), any::<u8>()).prop_map(|(request, at, to)| {
        let mut bytes = requests()[request].encode().as_bytes().to_vec();
        bytes[at] = to;
        RequestFields::read_from_bytes(&bytes).expect("the right length")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_writes_is_refused_or_means_exactly_what_it_says(
        fields in prop_oneof![any_fields(), nearly_good()],
        vcpus in 0..10u32,
        hosts in 0..5u32,
        address_end: u64,
    ) {
        let limits = Limits { vcpus, hosts, address_end, features: Features::ALL };
        if let Ok(request) = Request::decode(&fields, &limits) {
            prop_assert_eq!(request.encode(), fields);
            match request {
                Request::MoveVcpu { host, .. } => prop_assert!(host < hosts),
                Request::PullPages { address, bytes, host } => {
                    prop_assert!(host < hosts);
                    prop_assert!(address.checked_add(bytes).is_some_and(|end| end <= address_end));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn whatever_a_device_answers_is_understood_or_not_but_never_worse(bytes: [u8; 32]) {
        let fields = ResponseFields::read_from_bytes(&bytes).expect("the right length");
        if let Some(answer) = Answer::decode(&fields) {
            prop_assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }
}
