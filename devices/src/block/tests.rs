use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::config::{DISCARD, REQUEST_BYTES_MAX, WRITE_ZEROES};
use super::disk::{Disk, RawDisk, Space, Writes};
use super::*;
use crate::pci::PciFunction;
use crate::ram::fake::FakeRam;
use crate::virtio::testing::{wait_until, DriverQueue, Rig, BUFFERS, NEXT, WRITE};
use crate::virtio::Device;

mod fuzz;
mod qcow2;

const SECTORS: u64 = 64;
const READ: u32 = 0;
const WRITE_OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD_RANGES: u32 = 11;
const ZERO_RANGES: u32 = 13;
const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

const HEAD: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x10_0800;
const STATUS: u64 = BUFFERS + 0x8000;

/// Every byte says which sector it is in.
fn image(sectors: u64) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    for sector in 0..sectors {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    file
}

fn raw(file: &NamedTempFile, writes: Writes) -> Arc<RawDisk> {
    Arc::new(RawDisk::open(file.path(), writes).unwrap())
}

struct Setup {
    rig: Rig,
    queue: DriverQueue,
}

impl Setup {
    fn new(disk: Arc<dyn Disk>) -> Self {
        let disk = device(disk, "serial-1").unwrap();
        let features = disk.model.features;
        let rig = Rig::new(disk);
        let queue = rig.start(features).remove(0);
        Setup { rig, queue }
    }

    /// Offers a request with `out` behind its head and room for `back` bytes of data.
    fn offer(&mut self, kind: u32, sector: u64, out: &[u8], back: u32) {
        let head = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.queue.fill(HEAD, &head);
        self.queue.fill(DATA, out);
        self.queue.fill(STATUS, &[0xaa]);
        let mut readable = vec![(HEAD, 16)];
        readable.extend((!out.is_empty()).then_some((DATA, out.len() as u32)));
        let mut writable = Vec::new();
        writable.extend((back > 0).then_some((DATA, back)));
        writable.push((STATUS, 1));
        self.queue.offer(&readable, &writable);
        self.rig.kick(0);
    }

    /// The status of a request, and how many bytes were written.
    fn ask(&mut self, kind: u32, sector: u64, out: &[u8], back: u32) -> (u8, u32) {
        self.offer(kind, sector, out, back);
        let (_, written) = self.queue.wait_used();
        (self.queue.bytes(STATUS, 1)[0], written)
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn the_driver_is_told_what_the_disk_is() {
    let file = image(SECTORS);
    let Device { model, engine } = device(raw(&file, Writes::Allowed), "x").unwrap();
    assert_eq!(model.config.len(), 60);
    assert_eq!(model.config[..8], SECTORS.to_le_bytes());
    assert_eq!(model.config[20..24], 512u32.to_le_bytes());
    assert_eq!(model.features, 1 << 1 | 1 << 2 | 1 << 6 | 1 << 9 | DISCARD | WRITE_ZEROES);
    drop(engine);
    let model = device(raw(&file, Writes::Refused), "x").unwrap().model;
    assert_eq!(model.features, 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9);
}

#[test]
fn sectors_are_read_and_written_and_last_when_flushed() {
    let file = image(SECTORS);
    let mut disk = Setup::new(raw(&file, Writes::Allowed));
    assert_eq!(disk.ask(READ, 3, &[], 1024), (OK, 1025));
    assert_eq!(disk.queue.bytes(DATA, 1024), [[3; 512], [4; 512]].concat());
    assert_eq!(disk.ask(WRITE_OUT, 5, &[0x77; 1024], 0), (OK, 1));
    assert_eq!(disk.ask(FLUSH, 0, &[], 0), (OK, 1));
    let traffic = disk.rig.device.report().unwrap().traffic;
    assert!(traffic.pages_borrowed > 0 && traffic.pages_fetched == 0, "{traffic:?}");
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(bytes[5 * 512..7 * 512], [0x77; 1024]);
    assert_eq!((bytes[5 * 512 - 1], bytes[7 * 512]), (4, 7));
    assert_eq!(disk.ask(GET_ID, 0, &[], 20), (OK, 21));
    assert_eq!(disk.queue.bytes(DATA, 20), b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let file = image(4096);
    let mut disk = Setup::new(raw(&file, Writes::Allowed));
    let blocks = || file.as_file().metadata().unwrap().blocks();
    let before = blocks();
    let two = [range(0, 1024, 0), range(2048, 1024, 0)].concat();
    assert_eq!(disk.ask(DISCARD_RANGES, 0, &two, 0), (OK, 1));
    assert_eq!(before - blocks(), 2048, "the space is given back");
    assert_eq!(disk.ask(ZERO_RANGES, 0, &range(1024, 1, 0), 0), (OK, 1));
    assert_eq!(disk.ask(ZERO_RANGES, 0, &range(3072, 512, 1), 0), (OK, 1));
    assert_eq!(disk.ask(READ, 1023, &[], 1536).0, OK);
    assert_eq!(disk.queue.bytes(DATA, 1536), [[0; 512], [0; 512], [1; 512]].concat());
    assert_eq!(disk.ask(DISCARD_RANGES, 0, &range(1, 0, 0), 0), (OK, 1), "nothing of something");
    for (kind, flags) in [(DISCARD_RANGES, 1), (ZERO_RANGES, 2)] {
        assert_eq!(disk.ask(kind, 0, &range(0, 1, flags), 0).0, UNSUPPORTED);
    }
    for bad in
        [range(4096, 1, 0), range(u64::MAX, 1, 0), range(0, 5000, 0), vec![0; 15], range(0, 1, 0).repeat(33)]
    {
        assert_eq!(disk.ask(DISCARD_RANGES, 0, &bad, 0).0, FAILED);
    }
}

#[test]
fn what_is_out_of_bounds_or_makes_no_sense_fails() {
    let file = image(SECTORS);
    let mut disk = Setup::new(raw(&file, Writes::Allowed));
    for (kind, sector, out, back) in [
        (READ, SECTORS, 0, 512),
        (READ, SECTORS - 1, 0, 1024),
        (READ, u64::MAX, 0, 512),
        (READ, u64::MAX / 512, 0, 512),
        (READ, 0, 0, 100),
        (WRITE_OUT, SECTORS, 512, 0),
        (WRITE_OUT, 0, 511, 0),
        (GET_ID, 0, 0, 19),
    ] {
        assert_eq!(disk.ask(kind, sector, &vec![0; out], back).0, FAILED, "{kind} {sector} {out} {back}");
    }
    assert_eq!(disk.ask(99, 0, &[], 0).0, UNSUPPORTED);
    let head_cut_short = [(HEAD, 8)];
    disk.queue.offer(&head_cut_short, &[(STATUS, 1)]);
    disk.rig.kick(0);
    disk.queue.wait_used();
    assert_eq!(disk.queue.bytes(STATUS, 1), [FAILED]);
    assert_eq!(std::fs::read(file.path()).unwrap(), std::fs::read(image(SECTORS).path()).unwrap());
}

#[test]
fn a_request_that_is_too_big_fails_without_being_copied() {
    let file = image(SECTORS);
    let mut disk = Setup::new(raw(&file, Writes::Allowed));
    let piece = (FakeRam::BYTES - BUFFERS) as u32;
    disk.queue.offer(&[(HEAD, 16)], &[(BUFFERS, piece), (BUFFERS, piece), (STATUS, 1)]);
    disk.rig.kick(0);
    disk.queue.wait_used();
    assert_eq!(disk.queue.bytes(STATUS, 1), [FAILED]);
    assert!(u64::from(piece) > REQUEST_BYTES_MAX);
}

#[test]
fn a_disk_that_can_only_be_read_refuses_writes_whatever_the_driver_accepted() {
    let file = image(SECTORS);
    let rig = Rig::new(device(raw(&file, Writes::Refused), "").unwrap());
    let queue = rig.start(0).remove(0);
    let mut disk = Setup { rig, queue };
    assert_eq!(disk.ask(WRITE_OUT, 0, &[1; 512], 0).0, FAILED);
    assert_eq!(disk.ask(DISCARD_RANGES, 0, &range(0, 1, 0), 0).0, UNSUPPORTED, "not offered");
    assert_eq!(disk.ask(READ, 0, &[], 512).0, OK);
    assert_eq!(disk.ask(FLUSH, 0, &[], 0).0, OK);
}

#[test]
fn a_request_without_room_for_its_status_makes_the_device_ask_for_a_reset() {
    for broken in [&[][..], &[(0u64, 0u32)]] {
        let file = image(SECTORS);
        let mut disk = Setup::new(raw(&file, Writes::Allowed));
        match broken {
            [] => {
                disk.queue.offer(&[(HEAD, 16)], &[]);
            }
            _ => {
                // A head that leads into a loop.
                disk.queue.set_descriptor(0, HEAD, 16, NEXT, 1);
                disk.queue.set_descriptor(1, STATUS, 1, NEXT | WRITE, 1);
                disk.queue.make_available(0);
            }
        }
        disk.rig.kick(0);
        disk.rig.wait_for_needs_reset();
    }
}

/// A disk that fails or waits when it is told to.
#[derive(Default)]
struct Odd {
    fails: AtomicBool,
    held: Mutex<bool>,
    changed: Condvar,
    calls: AtomicU64,
}

impl Odd {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.changed.notify_all();
    }

    fn call(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let held = self.held.lock().unwrap();
        drop(self.changed.wait_while(held, |held| *held).unwrap());
        match self.fails.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Disk for Odd {
    fn bytes(&self) -> u64 {
        1 << 30
    }

    fn writes(&self) -> Writes {
        Writes::Allowed
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        self.call()
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        self.call()
    }

    fn flush(&self) -> io::Result<()> {
        self.call()
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        self.call()
    }

    fn write_zeroes(&self, _: u64, _: u64, _: Space) -> io::Result<()> {
        self.call()
    }
}

#[test]
fn what_the_host_cannot_do_fails_for_the_driver_and_the_device_goes_on() {
    let odd = Arc::new(Odd::default());
    let mut disk = Setup::new(odd.clone());
    odd.fails.store(true, Ordering::SeqCst);
    disk.queue.fill(DATA, &[0x55; 512]);
    assert_eq!(disk.ask(READ, 0, &[], 512), (FAILED, 0));
    assert_eq!(disk.queue.bytes(DATA, 512), [0x55; 512], "nothing was written but the status");
    for (kind, out) in [
        (WRITE_OUT, vec![0; 512]),
        (FLUSH, vec![]),
        (DISCARD_RANGES, range(0, 1, 0)),
        (ZERO_RANGES, range(0, 1, 0)),
    ] {
        assert_eq!(disk.ask(kind, 0, &out, 0).0, FAILED);
    }
    odd.fails.store(false, Ordering::SeqCst);
    assert_eq!(disk.ask(READ, 0, &[], 512), (OK, 513));
    assert_eq!(disk.rig.status(), 15);
}

#[test]
fn a_reset_waits_for_what_is_under_way_and_no_answer_comes_after_it() {
    let odd = Arc::new(Odd::default());
    let mut disk = Setup::new(odd.clone());
    odd.hold(true);
    disk.offer(WRITE_OUT, 0, &[1; 512], 0);
    wait_until("the disk is asked", || odd.calls.load(Ordering::SeqCst) == 1);
    disk.rig.set_status(0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_ne!(disk.rig.status(), 0, "the write could reach the disk after the next driver's");
    odd.hold(false);
    wait_until("the reset", || disk.rig.status() == 0);
    assert_eq!(disk.queue.take_used(), None);
    assert_eq!(disk.queue.bytes(STATUS, 1), [0xaa]);
}

#[test]
fn what_is_under_way_is_bounded_in_bytes_and_goes_on_when_there_is_room() {
    let odd = Arc::new(Odd::default());
    let mut disk = Setup::new(odd.clone());
    odd.hold(true);
    disk.queue.fill(HEAD, &[0; 16]);
    // 64 reads of 1 MiB each: more than may be under way.
    for _ in 0..64 {
        disk.queue.offer(&[(HEAD, 16)], &[(BUFFERS + 0x10_0000, 1 << 20), (STATUS, 1)]);
    }
    disk.rig.kick(0);
    wait_until("the disk is asked", || odd.calls.load(Ordering::SeqCst) >= 1);
    odd.hold(false);
    for _ in 0..64 {
        disk.queue.wait_used();
    }
    assert_eq!(odd.calls.load(Ordering::SeqCst), 64);
}

#[test]
fn images_that_cannot_be_used_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |path: &Path| RawDisk::open(path, Writes::Allowed).unwrap_err().to_string();
    assert!(problem(&folder.path().join("none")).contains("none: No such file"));
    assert!(problem(folder.path()).contains("neither a file nor a block device"));
    assert!(problem(Path::new("/dev/null")).contains("neither"));
    let small = folder.path().join("small");
    std::fs::write(&small, [0; 511]).unwrap();
    assert!(problem(&small).contains("511 bytes"));
    let file = image(1);
    OpenOptions::new().append(true).open(file.path()).unwrap().write_all(&[0; 100]).unwrap();
    let writer = RawDisk::open(file.path(), Writes::Allowed).unwrap();
    assert_eq!(writer.bytes(), 512, "whole sectors");
    assert!(problem(file.path()).contains("in use"));
    assert!(RawDisk::open(file.path(), Writes::Refused).is_err());
    drop(writer);
    let readers = [(); 2].map(|()| RawDisk::open(file.path(), Writes::Refused).unwrap());
    assert!(problem(file.path()).contains("in use"));
    drop(readers);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_request_panics_and_all_are_answered_within_the_disk(
        requests in proptest::collection::vec(
            (
                prop_oneof![0u32..14, any::<u32>()],
                prop_oneof![0..SECTORS + 2, any::<u64>()],
                proptest::collection::vec(any::<u8>(), 0..1100),
                0..2000u32,
                0..17u32,
            ),
            1..12),
    ) {
        let file = image(SECTORS);
        let mut disk = Setup::new(raw(&file, Writes::Allowed));
        for (kind, sector, out, back, head) in requests {
            let head_bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
            disk.queue.fill(HEAD, &head_bytes);
            disk.queue.fill(DATA, &out);
            let buffers = [(HEAD, head), (DATA, out.len() as u32)];
            let readable: Vec<_> = buffers.into_iter().filter(|buffer| buffer.1 > 0).collect();
            let mut writable: Vec<_> = [(DATA, back)].into_iter().filter(|buffer| buffer.1 > 0).collect();
            writable.push((STATUS, 1));
            disk.queue.offer(&readable, &writable);
            disk.rig.kick(0);
            disk.queue.wait_used();
            prop_assert!(disk.queue.bytes(STATUS, 1)[0] <= UNSUPPORTED);
        }
        prop_assert_eq!(disk.rig.status(), 15);
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * 512);
    }
}
