use std::sync::Arc;

use proptest::prelude::*;

use super::common::{CommonConfig, Effect, ThreadState};
use super::layout::{BAR, BAR_BYTES};
use crate::pci::{Msix, PciFunction};
use crate::virtio::engine::{Device, Driver, Engine, EngineError, Readiness, Reset, Watcher};
use crate::virtio::interrupts::VirtioInterrupts;
use crate::virtio::model::{feature, DeviceKind, Model};
use crate::virtio::testing::{DriverQueue, Rig, Sent};

const OWN_FEATURE: u64 = 1 << 5;

fn model() -> Model {
    Model {
        kind: DeviceKind::Block,
        features: OWN_FEATURE,
        queue_sizes: vec![256, 16],
        config: vec![1, 2, 3, 4, 5],
    }
}

/// Does nothing.
struct Idle;

impl Engine for Idle {
    fn activate(&mut self, _: Driver, _: &mut dyn Watcher) -> Result<(), EngineError> {
        Ok(())
    }

    fn kicked(&mut self, _: u16, _: &mut dyn Watcher) -> Result<(), EngineError> {
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Readiness, _: &mut dyn Watcher) -> Result<(), EngineError> {
        Ok(())
    }

    fn reset(&mut self, _: &mut dyn Watcher) -> Reset {
        Reset::Done
    }
}

fn idle(model: Model) -> Device {
    Device { model, engine: Box::new(Idle) }
}

fn rig() -> Rig {
    Rig::new(idle(model()))
}

fn word(rig: &Rig, at: usize) -> u32 {
    let mut data = [0; 4];
    rig.device.read_config(at, &mut data);
    u32::from_le_bytes(data)
}

/// The vendor capabilities: type, bar, offset, length, what follows.
fn capabilities(rig: &Rig) -> Vec<(u8, u8, u32, u32, usize)> {
    let mut found = Vec::new();
    let mut at = word(rig, 0x34) as usize & 0xff;
    while at != 0 {
        let head = word(rig, at).to_le_bytes();
        if head[0] == 9 {
            let bar = word(rig, at + 4) as u8;
            found.push((head[3], bar, word(rig, at + 8), word(rig, at + 12), at));
        }
        at = usize::from(head[1]);
    }
    found
}

#[test]
fn the_function_is_a_modern_virtio_device() {
    let rig = rig();
    assert_eq!(word(&rig, 0), 0x1042_1af4);
    assert_eq!(word(&rig, 8), 0x0180_0001, "a mass storage controller, revision 1");
    assert_eq!(word(&rig, 0x2c), 0x1042_1af4);
    assert_eq!(word(&rig, 0x3c), 0, "no interrupt pin");
    let parts: Vec<_> =
        capabilities(&rig).into_iter().map(|(kind, bar, at, len, _)| (kind, bar, at, len)).collect();
    assert_eq!(
        parts,
        [(1, 0, 0, 0x38), (3, 0, 0x1000, 1), (2, 0, 0x3000, 8), (4, 0, 0x2000, 5), (5, 0, 0, 0)],
        "common, ISR, doorbells, device, window"
    );
    let msix = rig.capability(0x11).unwrap();
    assert_eq!(word(&rig, msix) >> 16, 2, "three vectors: configuration and two queues");
    assert_eq!((word(&rig, msix + 4), word(&rig, msix + 8)), (0x4000, 0x5000));
}

#[test]
fn features_are_agreed_on_only_if_offered_and_with_version_1() {
    let rig = rig();
    let all = OWN_FEATURE | feature::VERSION_1 | feature::EVENT_IDX;
    assert_eq!(rig.offered(), all);
    assert!(!rig.accept(OWN_FEATURE), "a legacy driver");
    rig.reset();
    assert!(!rig.accept(all | 1));
    rig.reset();
    assert!(rig.accept(feature::VERSION_1));
    rig.write(8, &0u32.to_le_bytes());
    rig.write(12, &u32::MAX.to_le_bytes());
    assert_eq!(rig.read::<4>(12), [0; 4], "too late");
}

#[test]
fn a_queue_does_not_change_once_it_is_enabled() {
    let rig = rig();
    let setup = DriverQueue::new(rig.ram.clone(), 0, 64).setup;
    rig.enable_queue(0, &setup);
    assert_eq!(rig.read::<2>(0x1c), [0, 0], "not before the features are agreed on");
    assert!(rig.accept(feature::VERSION_1));
    rig.enable_queue(0, &setup);
    rig.write(0x18, &32u16.to_le_bytes());
    rig.write(0x20, &7u32.to_le_bytes());
    rig.write(0x30, &u64::MAX.to_le_bytes());
    rig.write(0x1c, &0u16.to_le_bytes());
    assert_eq!(u16::from_le_bytes(rig.read(0x18)), 64);
    assert_eq!(u64::from_le_bytes(rig.read(0x20)), setup.descriptors);
    assert_eq!(u64::from_le_bytes(rig.read(0x30)), setup.used);
    assert_eq!(rig.read::<2>(0x1c), [1, 0]);
    rig.set_status(15);
    rig.enable_queue(1, &setup);
    assert_eq!(rig.read::<2>(0x1c), [0, 0], "not while the device works");
    rig.reset();
    rig.write(0x16, &0u16.to_le_bytes());
    assert_eq!(rig.read::<2>(0x1c), [0, 0]);
    assert_eq!(u16::from_le_bytes(rig.read(0x18)), 256, "the size that the device allows");
}

#[test]
fn sizes_that_cannot_be_and_queues_that_are_not_there_are_ignored() {
    let rig = rig();
    assert!(rig.accept(feature::VERSION_1));
    for size in [0u16, 3, 512, 0xffff] {
        rig.write(0x18, &size.to_le_bytes());
        assert_eq!(u16::from_le_bytes(rig.read(0x18)), 256);
    }
    rig.write(0x16, &2u16.to_le_bytes());
    rig.write(0x1c, &1u16.to_le_bytes());
    assert_eq!(rig.read::<0x22>(0x16)[2..], [0; 0x20], "all zeros: no such queue");
    assert_eq!(u16::from_le_bytes(rig.read(0x12)), 2);
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let rig = rig();
    for (value, reads) in [(2u16, 2u16), (3, 0xffff), (0xffff, 0xffff)] {
        rig.write(0x10, &value.to_le_bytes());
        rig.write(0x1a, &value.to_le_bytes());
        assert_eq!(u16::from_le_bytes(rig.read(0x10)), reads);
        assert_eq!(u16::from_le_bytes(rig.read(0x1a)), reads);
    }
}

#[test]
fn a_device_whose_queue_cannot_be_asks_for_a_reset() {
    let rig = rig();
    assert!(rig.accept(feature::VERSION_1));
    rig.arm();
    let mut setup = DriverQueue::new(rig.ram.clone(), 0, 16).setup;
    setup.descriptors += 1;
    rig.enable_queue(0, &setup);
    rig.set_status(15);
    rig.wait_for_needs_reset();
    rig.reset();
    assert_eq!(rig.status(), 0);
}

#[test]
fn the_isr_status_is_cleared_by_reading_it() {
    let (sent, model) = (Arc::new(Sent::default()), model());
    let interrupts = VirtioInterrupts::new(Arc::new(Msix::new(3, sent)), model.queue_sizes.len());
    interrupts.queue(1);
    interrupts.config_changed();
    assert_eq!((interrupts.take_isr(), interrupts.take_isr()), (3, 0));
}

#[test]
fn the_devices_configuration_can_be_read_in_pieces() {
    let rig = rig();
    assert_eq!(rig.read::<2>(0x2001), [2, 3]);
    assert_eq!(rig.read::<8>(0x2000), [1, 2, 3, 4, 5, 0, 0, 0]);
    rig.write(0x2000, &[9; 4]);
    assert_eq!(rig.read::<1>(0x2000), [1]);
    assert_eq!(rig.read::<4>(0x2ffe), [0; 4]);
}

#[test]
fn the_window_leads_through_configuration_space_to_the_bar() {
    let rig = rig();
    let window = capabilities(&rig).into_iter().find(|capability| capability.0 == 5).unwrap().4;
    let aim = |offset: u32, length: u32| {
        rig.device.write_config(window + 8, &offset.to_le_bytes());
        rig.device.write_config(window + 12, &length.to_le_bytes());
    };
    aim(0x14, 1);
    rig.device.write_config(window + 16, &[1]);
    assert_eq!(rig.status(), 1);
    aim(0x12, 2);
    assert_eq!(word(&rig, window + 16) & 0xffff, 2, "two queues");
    for (offset, length) in [(0x12, 4), (0x14, 3), (BAR_BYTES as u32, 4), (u32::MAX, 1)] {
        aim(offset, length);
        word(&rig, window + 16);
        rig.device.write_config(window + 16, &[0]);
        assert_eq!(rig.status(), 1, "{offset:#x} {length}");
    }
}

#[test]
fn a_device_tells_what_it_borrowed_and_who_accessed_it_from_afar() {
    let rig = rig();
    let report = rig.device.report().unwrap();
    assert_eq!((report.name.as_str(), report.traffic), ("test", Default::default()));
    rig.device.remote_access();
    let mut queues = rig.start(0);
    queues[0].offer(&[(crate::virtio::testing::BUFFERS, 1)], &[]);
    rig.kick(0);
    assert_eq!(rig.device.report().unwrap().traffic.remote_accesses, 1);
}

#[test]
fn a_devices_number_of_queues_is_bounded() {
    let parts = || crate::virtio::VirtioParts {
        ram: crate::ram::fake::FakeRam::new(),
        msi: Arc::new(Sent::default()),
        bar_address: 0,
    };
    for count in [0, 65] {
        let model = Model { queue_sizes: vec![16; count], ..model() };
        assert!(super::VirtioPci::new("x", idle(model), parts()).is_err());
    }
    let place = crate::virtio::VirtioParts { bar_address: 0x1000, ..parts() };
    assert!(super::VirtioPci::new("x", idle(model()), place).is_err(), "not at a multiple of its size");
}

proptest! {
    #[test]
    fn registers_keep_to_the_drivers_way_whatever_is_written(
        steps in proptest::collection::vec(
            (0u64..0x40, proptest::collection::vec(any::<u8>(), 0..9), any::<bool>()), 0..80),
    ) {
        let sent = Arc::new(Sent::default());
        let interrupts = Arc::new(VirtioInterrupts::new(Arc::new(Msix::new(3, sent)), 2));
        let mut common = CommonConfig::new(&model(), interrupts);
        let mut active: Option<Vec<_>> = None;
        for (at, data, resetting) in steps {
            let thread = ThreadState { resetting: resetting && data.len() == 1, needs_reset: false };
            let effect = common.write(at, thread, &data);
            match effect {
                Effect::Activate => {
                    prop_assert!(active.is_none(), "activated twice");
                    prop_assert_eq!(common.accepted() & !(OWN_FEATURE | feature::COMMON), 0);
                    active = Some(common.queues().to_vec());
                }
                Effect::Reset => prop_assert!(active.take().is_some()),
                Effect::None => {}
            }
            if let Some(queues) = &active {
                prop_assert_eq!(queues.as_slice(), common.queues(), "changed while the device works");
            }
            let mut into = [0; 9];
            common.read(at, thread, &mut into[..data.len()]);
        }
    }

    #[test]
    fn no_register_access_panics(
        steps in proptest::collection::vec(
            (0u8..4, any::<u64>(), proptest::collection::vec(any::<u8>(), 0..9)), 0..60),
    ) {
        let rig = rig();
        for (what, at, data) in steps {
            let mut into = data.clone();
            match what {
                0 => rig.device.write_memory(BAR, at % (BAR_BYTES + 16), &data),
                1 => rig.device.read_memory(BAR, at % (BAR_BYTES + 16), &mut into),
                2 => { rig.device.write_config((at % 300) as usize, &data); }
                _ => rig.device.read_config((at % 300) as usize, &mut into),
            }
        }
        rig.device.regions();
    }
}
