//! PCI and virtio over several nodes: the devices are on node 0, their drivers and their memory anywhere.

mod cluster;

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::Path;

use cluster::{Cluster, ClusterSpec};
use tessera_vmm::control::devices::{
    ConsoleSpec, DeviceSpec, DiskAccess, DiskFormat, DiskSpec, FolderSpec, NetLink, NetSpec, RngSpec,
    VsockSpec,
};

/// Bytes of the disk: 64 pages, so that rounds come back to each.
const DISK_BYTES: u64 = 64 << 12;

fn disk(path: &Path) -> DeviceSpec {
    let (format, access) = (DiskFormat::Raw, DiskAccess::ReadWrite);
    DeviceSpec::Disk(DiskSpec { path: path.into(), format, access, serial: "payload".into() })
}

fn image() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(DISK_BYTES).expect("its size");
    file
}

fn spec(cmdline: &str, nodes: u8, vcpus: usize, image: &tempfile::NamedTempFile) -> ClusterSpec {
    ClusterSpec { devices: vec![disk(image.path())], ..ClusterSpec::payload(cmdline, nodes, vcpus) }
}

/// What a disk must hold after so many rounds of the payload's test: something in every page.
fn assert_written(image: &tempfile::NamedTempFile) {
    let bytes = std::fs::read(image.path()).expect("the image");
    assert_eq!(bytes.len() as u64, DISK_BYTES, "the image keeps its size");
    assert!(bytes.chunks(4096).all(|page| page.iter().any(|&byte| byte != 0)), "every page was written");
}

#[test]
fn every_cpu_of_every_node_finds_the_same_devices() {
    let image = image();
    let mut spec = spec("test=pci devices=4", 2, 2, &image);
    spec.devices.push(DeviceSpec::Rng(RngSpec { source: "/dev/urandom".into() }));
    spec.devices.push(DeviceSpec::Console(ConsoleSpec::Nowhere));
    Cluster::start(spec).expect_pass();
    Cluster::start(ClusterSpec::payload("test=pci devices=1", 3, 3)).expect_pass();
}

#[test]
fn a_disk_serves_one_node() {
    let image = image();
    Cluster::start(spec("test=disk rounds=200", 1, 2, &image)).expect_pass();
    assert_written(&image);
}

#[test]
fn a_disk_serves_drivers_and_memory_of_several_nodes() {
    let image = image();
    let cluster = Cluster::start(spec("test=disk rounds=300", 2, 2, &image));
    let home = cluster.nodes[0].machine.clone();
    cluster.expect_pass();
    assert_written(&image);
    let reports = home.device_reports();
    let (slot, disk) = reports.first().expect("a disk");
    assert_eq!((reports.len(), *slot, disk.name.as_str()), (1, 1, "disk0"));
    let traffic = disk.traffic;
    // The drivers take turns, each with pages of its own node: not all of them can be where the disk is.
    assert!(traffic.pages_fetched > 0 && traffic.pages_fetched < traffic.pages_borrowed, "{traffic:?}");
    assert!(traffic.remote_accesses >= 300, "a kick for each request of the other node: {traffic:?}");
    Cluster::start(spec("test=disk rounds=100", 3, 4, &image)).expect_pass();
}

#[test]
fn a_disk_serves_drivers_that_move_all_the_time() {
    let image = image();
    let cluster = Cluster::start(spec("test=disk rounds=600", 3, 3, &image));
    cluster.wait_for("TESSERA-READY");
    let made = cluster.keep_moving(&[0, 1, 2], usize::MAX);
    println!("{made} moves");
    cluster.expect_pass();
    assert!(made > 10, "only {made} moves");
    assert_written(&image);
}

/// A guest with one device of every kind, whose files are in this folder.
fn everything(cmdline: &str, nodes: u8, image: &tempfile::NamedTempFile, folder: &Path) -> ClusterSpec {
    let mut spec = spec(cmdline, nodes, 2, image);
    let network = UnixListener::bind(folder.join("net")).expect("a socket");
    std::thread::spawn(move || {
        // Frames go nowhere.
        let mut bytes = [0; 4096];
        if let Ok((mut card, _)) = network.accept() {
            while card.read(&mut bytes).is_ok_and(|count| count > 0) {}
        }
    });
    let link = NetLink::Socket(folder.join("net"));
    spec.devices.extend([
        DeviceSpec::Net(NetSpec { link, address: [2, 0, 0, 0, 0, 1] }),
        DeviceSpec::Rng(RngSpec { source: "/dev/urandom".into() }),
        DeviceSpec::Console(ConsoleSpec::Nowhere),
        DeviceSpec::Vsock(VsockSpec { cid: 3, socket: folder.join("vsock") }),
        DeviceSpec::Folder(FolderSpec { path: folder.into(), tag: "f".into(), access: DiskAccess::ReadOnly }),
    ]);
    spec
}

#[test]
fn no_access_to_any_register_ends_the_node_or_a_device() {
    let (image, folder) = (image(), tempfile::tempdir().expect("a folder"));
    let line = "test=registers,pci,disk rounds=500 devices=7";
    Cluster::start(everything(line, 2, &image, folder.path())).expect_pass();
}

#[test]
fn no_queue_makes_a_device_write_memory_that_it_was_not_lent() {
    for seed in 1..4 {
        let (image, folder) = (image(), tempfile::tempdir().expect("a folder"));
        let line = format!("test=rings,pci,disk rounds=40 devices=7 seed={seed}");
        Cluster::start(everything(&line, 2, &image, folder.path())).expect_pass();
    }
}
