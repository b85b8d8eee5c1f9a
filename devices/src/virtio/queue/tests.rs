use std::sync::Arc;

use proptest::prelude::*;
use tessera_dsm::pager::BorrowError;

use super::copy::read_all;
use super::*;
use crate::pci::Msix;
use crate::ram::fake::FakeRam;
use crate::virtio::interrupts::VirtioInterrupts;
use crate::virtio::testing::{DriverQueue, Sent, BUFFERS, INDIRECT, NEXT, WRITE};

mod fuzz;

const SIZE: u16 = 16;
const PLENTY: Limits = Limits { chains: 100, bytes: u64::MAX };

struct Pair {
    ram: Arc<FakeRam>,
    driver: DriverQueue,
    device: DeviceQueue,
    sent: Arc<Sent>,
}

fn pair(event_idx: EventIdx) -> Pair {
    let (ram, sent) = (FakeRam::new(), Arc::new(Sent::default()));
    let msix = Arc::new(Msix::new(1, sent.clone()));
    msix.set_control(0x8000);
    msix.write_table(0, &0xfee0_0000u64.to_le_bytes());
    msix.write_table(8, &0x41u64.to_le_bytes());
    let interrupts = Arc::new(VirtioInterrupts::new(msix, 1));
    interrupts.set_queue_vector(0, 0);
    let driver = DriverQueue::new(ram.clone(), 0, SIZE);
    let device = DeviceQueue::new(0, SIZE, &driver.setup, event_idx, interrupts).unwrap();
    Pair { ram, driver, device, sent }
}

impl Pair {
    fn take(&mut self) -> Result<Vec<Chain>, QueueError> {
        self.device.take(&*self.ram, PLENTY).map(|taken| taken.chains)
    }

    fn fault(&mut self) -> ChainFault {
        match self.take() {
            Err(QueueError::Chain { head: 0, queue: 0, fault }) => fault,
            other => panic!("{other:?}"),
        }
    }
}

fn done(chain: Chain, answers: Vec<(u64, Vec<u8>)>, written: u32) -> Done {
    Done { chain, answers, written }
}

#[test]
fn a_chain_is_copied_answered_and_given_back() {
    let mut pair = pair(EventIdx::Off);
    pair.driver.fill(BUFFERS, b"hello");
    let head =
        pair.driver.offer(&[(BUFFERS, 2), (BUFFERS + 2, 3)], &[(BUFFERS + 0xfff, 3), (FakeRam::HIGH, 4)]);
    let chains = pair.take().unwrap();
    assert_eq!(chains.len(), 1);
    assert_eq!((chains[0].head, chains[0].readable_len(), chains[0].writable_len()), (head, 5, 7));
    assert_eq!(read_all(&*pair.ram, chains[0].readable.clone()).unwrap(), b"hello");
    assert_eq!(pair.driver.take_used(), None);
    let answers = vec![(1, b"abcd".to_vec()), (6, b"!beyond".to_vec())];
    pair.device.complete(&*pair.ram, &[done(chains[0].clone(), answers, 7)]).unwrap();
    assert_eq!(pair.driver.take_used(), Some((head.into(), 7)));
    assert_eq!(pair.driver.bytes(BUFFERS + 0xfff, 3), b"\0ab", "across pages");
    assert_eq!(pair.driver.bytes(FakeRam::HIGH, 5), b"cd\0!\0", "what does not fit is left out");
    assert_eq!(pair.sent.take(), [0x41]);
}

#[test]
fn one_loan_takes_a_batch_one_reads_it_and_one_answers_it() {
    let mut pair = pair(EventIdx::Off);
    for i in 0..4 {
        pair.driver.offer(&[(BUFFERS + i * 0x3000, 8)], &[(BUFFERS + i * 0x3000 + 0x1000, 8)]);
    }
    let chains = pair.take().unwrap();
    assert_eq!(pair.ram.loans(), 1);
    read_all(&*pair.ram, chains.iter().flat_map(|chain| chain.readable.iter().copied())).unwrap();
    assert_eq!(pair.ram.loans(), 2);
    let all: Vec<Done> = chains.into_iter().map(|chain| done(chain, vec![(0, vec![1; 8])], 8)).collect();
    pair.device.complete(&*pair.ram, &all).unwrap();
    assert_eq!(pair.ram.loans(), 3);
    assert_eq!(pair.sent.take(), [0x41], "one interrupt for all");
    pair.device.complete(&*pair.ram, &[]).unwrap();
    assert_eq!(pair.ram.loans(), 3, "nothing to do, nothing borrowed");
}

#[test]
fn more_than_a_loan_holds_is_copied_in_several() {
    let mut pair = pair(EventIdx::Off);
    let len = 5 << 20;
    pair.driver.fill(BUFFERS + 1, &(0..len).map(|i| (i >> 8) as u8).collect::<Vec<_>>());
    pair.driver.offer(&[(BUFFERS + 1, len as u32)], &[(BUFFERS + 3, len as u32)]);
    let chain = pair.take().unwrap().remove(0);
    let bytes = read_all(&*pair.ram, chain.readable.clone()).unwrap();
    assert!(bytes.len() == len && bytes.iter().enumerate().all(|(i, &byte)| byte == (i >> 8) as u8));
    pair.device.complete(&*pair.ram, &[done(chain, vec![(0, bytes.clone())], len as u32)]).unwrap();
    assert!(pair.driver.bytes(BUFFERS + 3, len) == bytes);
    assert!(pair.ram.loans() > 5, "{}", pair.ram.loans());
}

#[test]
fn the_limits_hold_and_what_is_left_is_taken_later() {
    let mut pair = pair(EventIdx::On);
    for _ in 0..5 {
        pair.driver.offer(&[(BUFFERS, 100)], &[]);
    }
    let mut take = |chains, bytes| {
        let taken = pair.device.take(&*pair.ram, Limits { chains, bytes }).unwrap();
        (taken.chains.len(), taken.more)
    };
    assert_eq!(take(2, 1000), (2, true));
    assert_eq!(take(100, 250), (2, true));
    assert_eq!(take(0, 250), (0, true));
    assert_eq!(take(100, 1), (1, false), "one is taken however big it is");
    assert_eq!(take(100, 1), (0, false));
    assert_eq!(pair.device.outstanding(), 5);
}

#[test]
fn with_event_idx_each_side_is_told_when_it_asked_to_be() {
    let mut pair = pair(EventIdx::On);
    assert_eq!(pair.take().unwrap().len(), 0);
    assert_eq!(pair.driver.avail_event(), 0, "tell me of the first");
    pair.driver.offer(&[(BUFFERS, 1)], &[]);
    pair.driver.offer(&[(BUFFERS, 1)], &[]);
    let chains = pair.take().unwrap();
    assert_eq!(pair.driver.avail_event(), 2, "tell me of the third");
    pair.driver.set_used_event(1);
    pair.device.complete(&*pair.ram, &[done(chains[0].clone(), vec![], 0)]).unwrap();
    assert_eq!(pair.sent.take(), [0u8; 0], "the driver wants to hear of the second only");
    pair.device.complete(&*pair.ram, &[done(chains[1].clone(), vec![], 0)]).unwrap();
    assert_eq!(pair.sent.take(), [0x41]);
}

#[test]
fn indices_wrap_round() {
    let mut pair = pair(EventIdx::On);
    for round in 0..70_000u32 {
        pair.driver.set_used_event(round as u16);
        let head = pair.driver.offer(&[(BUFFERS, 1)], &[(BUFFERS + 8, 1)]);
        let chain = pair.take().unwrap().remove(0);
        pair.device.complete(&*pair.ram, &[done(chain, vec![], 1)]).unwrap();
        assert_eq!(pair.driver.take_used(), Some((head.into(), 1)));
    }
    assert_eq!(pair.sent.take().len(), 70_000);
}

#[test]
fn chains_that_make_no_sense_are_refused() {
    type Make<'a> = &'a dyn Fn(&mut DriverQueue);
    let cases: [(&str, Make<'_>, ChainFault); 9] = [
        ("a loop", &|d| d.set_descriptor(0, BUFFERS, 8, NEXT, 0), ChainFault::Endless),
        (
            "a longer loop",
            &|d| {
                d.set_descriptor(0, BUFFERS, 8, NEXT, 1);
                d.set_descriptor(1, BUFFERS, 8, NEXT, 0);
            },
            ChainFault::Endless,
        ),
        ("out of the table", &|d| d.set_descriptor(0, BUFFERS, 8, NEXT, SIZE), ChainFault::Endless),
        ("indirect", &|d| d.set_descriptor(0, BUFFERS, 32, INDIRECT, 0), ChainFault::Endless),
        ("no bytes", &|d| d.set_descriptor(0, BUFFERS, 0, 0, 0), ChainFault::Empty(BUFFERS)),
        (
            "past the end of RAM",
            &|d| d.set_descriptor(0, FakeRam::BYTES - 8, 9, 0, 0),
            ChainFault::NotRam { gpa: FakeRam::BYTES - 8, len: 9 },
        ),
        (
            "no RAM at all",
            &|d| d.set_descriptor(0, 0xfec0_0000, 8, WRITE, 0),
            ChainFault::NotRam { gpa: 0xfec0_0000, len: 8 },
        ),
        (
            "round the end of the address space",
            &|d| d.set_descriptor(0, u64::MAX - 3, 8, 0, 0),
            ChainFault::NotRam { gpa: u64::MAX - 3, len: 8 },
        ),
        (
            "reading behind writing",
            &|d| {
                d.set_descriptor(0, BUFFERS, 8, NEXT | WRITE, 1);
                d.set_descriptor(1, BUFFERS, 8, 0, 0);
            },
            ChainFault::Order,
        ),
    ];
    for (name, make, fault) in cases {
        let mut pair = pair(EventIdx::Off);
        make(&mut pair.driver);
        pair.driver.make_available(0);
        assert_eq!(pair.fault(), fault, "{name}");
    }
}

#[test]
fn a_head_outside_the_table_and_indices_that_jump_are_refused() {
    let mut out = pair(EventIdx::Off);
    out.driver.make_available(SIZE);
    assert!(matches!(out.take(), Err(QueueError::Chain { head: SIZE, fault: ChainFault::Endless, .. })));
    let mut jump = pair(EventIdx::Off);
    jump.driver.set_available_index(SIZE + 1);
    assert!(matches!(jump.take(), Err(QueueError::Ring { .. })));
}

#[test]
fn more_chains_than_descriptors_are_refused() {
    let mut pair = pair(EventIdx::Off);
    pair.driver.set_descriptor(0, BUFFERS, 8, 0, 0);
    for _ in 0..SIZE {
        pair.driver.make_available(0);
    }
    assert_eq!(pair.take().unwrap().len(), usize::from(SIZE));
    pair.driver.make_available(0);
    assert!(matches!(pair.take(), Err(QueueError::Flooded { size: SIZE, .. })));
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let (ram, sent) = (FakeRam::new(), Arc::new(Sent::default()));
    let make = |change: &dyn Fn(&mut QueueSetup)| {
        let mut setup = DriverQueue::new(ram.clone(), 0, SIZE).setup;
        change(&mut setup);
        let interrupts = Arc::new(VirtioInterrupts::new(Arc::new(Msix::new(1, sent.clone())), 1));
        let mut queue = DeviceQueue::new(0, SIZE, &setup, EventIdx::On, interrupts)?;
        queue.take(&*ram, PLENTY)
    };
    make(&|_| {}).unwrap();
    for change in [
        &(|s: &mut QueueSetup| s.size = 0) as &dyn Fn(&mut QueueSetup),
        &|s| s.size = 12,
        &|s| s.size = 32,
        &|s| s.descriptors += 8,
        &|s| s.available += 1,
        &|s| s.used += 2,
    ] {
        assert!(matches!(make(change), Err(QueueError::Ring { .. })));
    }
    for change in [
        &(|s: &mut QueueSetup| s.descriptors = FakeRam::BYTES - 16) as &dyn Fn(&mut QueueSetup),
        &|s| s.available = 1 << 40,
        &|s| s.used = !3,
    ] {
        let result = make(change);
        let refused = matches!(result, Err(QueueError::Borrow(BorrowError::NotRam { .. })));
        assert!(refused, "{result:?}");
    }
}

#[test]
fn the_end_of_the_guest_is_no_fault_of_the_guest() {
    let mut pair = pair(EventIdx::Off);
    pair.ram.stop();
    assert!(pair.take().unwrap_err().is_end());
}

/// A ring of arbitrary bytes, with addresses that are RAM more often than not.
fn wild_descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let gpa = prop_oneof![4 => 0..FakeRam::BYTES, 1 => any::<u64>(), 1 => Just(FakeRam::HIGH)];
    let len = prop_oneof![4 => 0..0x4000u32, 1 => any::<u32>()];
    (gpa, len, prop_oneof![4 => 0..4u16, 1 => any::<u16>()], prop_oneof![4 => 0..SIZE, 1 => any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_ring_panics_and_what_is_taken_is_ram(
        descriptors in proptest::collection::vec(wild_descriptor(), usize::from(SIZE)),
        steps in proptest::collection::vec((0u8..4, any::<u16>()), 1..40),
        event_idx in any::<bool>(),
    ) {
        let mut pair = pair(if event_idx { EventIdx::On } else { EventIdx::Off });
        for (index, (gpa, len, flags, next)) in (0u16..).zip(descriptors) {
            pair.driver.set_descriptor(index, gpa, len, flags, next);
        }
        let mut open = Vec::new();
        for (what, value) in steps {
            match what {
                0 => pair.driver.make_available(value % (SIZE + 2)),
                1 => pair.driver.set_used_event(value),
                2 => {
                    let limits = Limits { chains: usize::from(value % 8), bytes: 1 << 20 };
                    let Ok(Taken { chains, .. }) = pair.device.take(&*pair.ram, limits) else { break };
                    for chain in &chains {
                        for buffer in chain.readable.iter().chain(&chain.writable) {
                            let end = buffer.gpa + u64::from(buffer.len);
                            let low = end <= FakeRam::BYTES;
                            let high = buffer.gpa >= FakeRam::HIGH && end <= FakeRam::HIGH + FakeRam::HIGH_BYTES;
                            prop_assert!(buffer.len > 0 && (low || high));
                        }
                    }
                    open.extend(chains);
                }
                _ => {
                    let Some(chain) = open.pop() else { continue };
                    read_all(&*pair.ram, chain.readable.clone()).unwrap();
                    let answer = vec![(u64::from(value % 99), vec![0xa5; usize::from(value)])];
                    pair.device.complete(&*pair.ram, &[done(chain, answer, value.into())]).unwrap();
                }
            }
            prop_assert!(usize::from(pair.device.outstanding()) == open.len() && open.len() <= usize::from(SIZE));
        }
    }
}
