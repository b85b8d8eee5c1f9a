//! Images of the format qcow2: what is written is there, and no image, whole or not, ends the node.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use imago::file::File as Storage;
use imago::format::builder::FormatCreateBuilder;
use imago::qcow2::Qcow2;
use tempfile::TempDir;

use super::*;
use crate::block::{BackingFiles, Qcow2Disk};
use crate::virtio::fuzzing::fuzz;

/// Small clusters make small images, with several tables.
const CLUSTER: usize = 512;
const BYTES: u64 = 256 << 10;

/// An image of zeros, on another one if that is said.
fn make(folder: &TempDir, name: &str, on: Option<(&str, &str)>) -> PathBuf {
    let path = folder.path().join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let options = imago::StorageOpenOptions::new().write(true);
    let storage = Storage::from_open_file(file, options).unwrap();
    let mut builder = Qcow2::<Storage>::create_builder(storage).size(BYTES).cluster_size(CLUSTER);
    if let Some((below, format)) = on {
        builder = builder.backing(below.into(), format.into());
    }
    builder.create().unwrap();
    path
}

fn open(path: &Path) -> Qcow2Disk {
    Qcow2Disk::open(path, Writes::Allowed, BackingFiles::Refused).unwrap()
}

fn problem(path: &Path, backing: BackingFiles) -> String {
    match Qcow2Disk::open(path, Writes::Allowed, backing) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

fn read(disk: &dyn Disk, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut into = vec![0xaa; bytes];
    disk.read_at(offset, &mut into).map(|()| into)
}

#[test]
fn what_is_written_is_there_when_the_image_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(&folder, "a", None);
    let disk = open(&path);
    assert_eq!(disk.bytes(), BYTES);
    assert_eq!(read(&disk, 0, 4096).unwrap(), [0; 4096]);
    disk.write_at(1000, &[7; 3000]).unwrap();
    disk.write_at(BYTES - 512, &[9; 512]).unwrap();
    disk.flush().unwrap();
    drop(disk);
    let disk = Qcow2Disk::open(&path, Writes::Refused, BackingFiles::Refused).unwrap();
    let expected = [vec![0; 1000], vec![7; 3000], vec![0; 96]].concat();
    assert_eq!(read(&disk, 0, 4096).unwrap(), expected);
    assert_eq!(read(&disk, BYTES - 512, 512).unwrap(), [9; 512]);
    assert!(disk.write_at(0, &[1; 512]).is_err(), "it was opened to be read");
}

#[test]
fn ranges_are_zeroed_and_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(&make(&folder, "a", None));
    disk.write_at(0, &[5; 64 << 10]).unwrap();
    disk.write_zeroes(512, 700, Space::Keep).unwrap();
    disk.write_zeroes(8192, 4096 + 100, Space::Free).unwrap();
    disk.discard(32 << 10, 4096).unwrap();
    let bytes = read(&disk, 0, 64 << 10).unwrap();
    for (at, &byte) in bytes.iter().enumerate() {
        let zero = (512..1212).contains(&at) || (8192..8192 + 4196).contains(&at);
        let any = (32 << 10..(32 << 10) + 4096).contains(&at);
        assert!(any || byte == if zero { 0 } else { 5 }, "{byte} at {at}");
    }
}

#[test]
fn a_guest_uses_one_like_any_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Setup::new(Arc::new(open(&make(&folder, "a", None))));
    assert_eq!(disk.ask(WRITE_OUT, 5, &[0x77; 1024], 0), (OK, 1));
    assert_eq!(disk.ask(ZERO_RANGES, 0, &range(6, 1, 1), 0), (OK, 1));
    assert_eq!(disk.ask(FLUSH, 0, &[], 0), (OK, 1));
    assert_eq!(disk.ask(READ, 5, &[], 1024), (OK, 1025));
    assert_eq!(disk.queue.bytes(DATA, 1024), [[0x77; 512], [0; 512]].concat());
    assert_eq!(disk.ask(DISCARD_RANGES, 0, &range(0, 64, 0), 0), (OK, 1));
}

#[test]
fn who_writes_an_image_has_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(&folder, "a", None);
    let writer = open(&path);
    assert!(problem(&path, BackingFiles::Refused).contains("in use"));
    drop(writer);
    let readers = [(); 2].map(|()| Qcow2Disk::open(&path, Writes::Refused, BackingFiles::Refused).unwrap());
    assert!(problem(&path, BackingFiles::Refused).contains("in use"));
    drop(readers);
    open(&path);
}

#[test]
fn other_files_are_opened_only_if_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    std::fs::write(&below, vec![3; BYTES as usize]).unwrap();
    let path = make(&folder, "a", Some(("below", "raw")));
    let line = problem(&path, BackingFiles::Refused);
    assert!(line.contains("below") && line.contains("backing_files=on"), "{line}");
    let disk = Qcow2Disk::open(&path, Writes::Allowed, BackingFiles::Allowed).unwrap();
    disk.write_at(512, &[4; 512]).unwrap();
    assert_eq!(read(&disk, 0, 1536).unwrap(), [[3; 512], [4; 512], [3; 512]].concat());
    let lock = |file: &File| rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(lock(&File::open(&below).unwrap()).is_err(), "nobody changes what it builds on");
    drop(disk);
    assert_eq!(std::fs::read(&below).unwrap(), vec![3; BYTES as usize]);
    std::fs::remove_file(&below).unwrap();
    let line = problem(&path, BackingFiles::Allowed);
    assert!(line.contains("below") && line.contains("No such file"), "{line}");
}

#[test]
fn images_that_build_on_each_other_come_to_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let a = make(&folder, "a", Some(("b", "qcow2")));
    make(&folder, "b", Some(("a", "qcow2")));
    let opened = Qcow2Disk::open(&a, Writes::Refused, BackingFiles::Allowed);
    let line = opened.err().expect("no end").to_string();
    assert!(line.contains("more than 16 images"), "{line}");
}

#[test]
fn a_file_that_is_cut_short_while_it_is_used_does_not_read_as_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    std::fs::write(&below, vec![3; BYTES as usize]).unwrap();
    let path = make(&folder, "a", Some(("below", "raw")));
    let mut disk =
        Setup::new(Arc::new(Qcow2Disk::open(&path, Writes::Allowed, BackingFiles::Allowed).unwrap()));
    assert_eq!(disk.ask(READ, 0, &[], 512), (OK, 513));
    // Removed, it stays until nobody uses it.
    let cut = OpenOptions::new().write(true).open(&below).unwrap();
    std::fs::remove_file(&below).unwrap();
    assert_eq!(disk.ask(READ, 8, &[], 512), (OK, 513));
    cut.set_len(0).unwrap();
    assert_eq!(disk.ask(READ, 16, &[], 512), (FAILED, 0));
    assert_eq!(disk.rig.status(), 15);
}

#[test]
fn files_that_are_no_whole_image_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(&folder, "a", None);
    let disk = open(&path);
    (0..BYTES / 512).for_each(|sector| disk.write_at(sector * 512, &[1; 512]).unwrap());
    drop(disk);
    let whole = std::fs::read(&path).unwrap();
    let cut = folder.path().join("cut");
    for length in [512, 1024, 1536, 3000] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let line = problem(&cut, BackingFiles::Refused);
        assert!(line.contains("cut") && line.contains("qcow2"), "{length}: {line}");
    }
    let raw = folder.path().join("raw");
    std::fs::write(&raw, [0; 4096]).unwrap();
    assert!(problem(&raw, BackingFiles::Refused).contains("no qcow2 image"));
    let line = RawDisk::open_unsaid(&path, Writes::Allowed).unwrap_err().to_string();
    assert!(line.contains("image_type=qcow2"), "{line}");
    assert!(RawDisk::open(&path, Writes::Allowed).is_ok(), "who says that it is raw is believed");
    assert!(RawDisk::open_unsaid(&raw, Writes::Allowed).is_ok());
}

#[test]
fn no_image_however_damaged_ends_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(&folder, "a", None);
    let disk = open(&path);
    disk.write_at(0, &[1; 16 << 10]).unwrap();
    disk.write_zeroes(4096, 4096, Space::Free).unwrap();
    drop(disk);
    let corpus = [("an image", std::fs::read(&path).unwrap())];
    let damaged = folder.path().join("damaged");
    let mut opened = 0;
    fuzz(300, &corpus, |bytes| {
        std::fs::write(&damaged, bytes).unwrap();
        let Ok(disk) = Qcow2Disk::open(&damaged, Writes::Allowed, BackingFiles::Refused) else { return };
        opened += 1;
        let end = disk.bytes().min(BYTES);
        for offset in (0..end.saturating_sub(1024)).step_by(9 * 512).take(20) {
            let _ = read(&disk, offset, 1024);
            let _ = disk.write_at(offset, &[2; 700]);
        }
        let _ = disk.write_zeroes(0, end.min(8192), Space::Free);
        let _ = disk.discard(0, end.min(8192));
        let _ = disk.flush();
    });
    assert!(opened > 100, "only {opened} were opened");
}
