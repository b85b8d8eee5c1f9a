//! Guests that are created, live and end through the API.

use super::world::Scene;
use crate::api::body::VmState;
use crate::api::desk::Next;
use crate::api::routes::{Verb, ROUTES};
use crate::control::ask::{Ask, Pace};
use crate::control::ending::EndCause;

/// All that can be asked for only while a guest runs.
const OF_A_RUNNING_GUEST: [Verb; 10] = [
    Verb::Shutdown,
    Verb::Reboot,
    Verb::Pause,
    Verb::Resume,
    Verb::PowerButton,
    Verb::Counters,
    Verb::Vcpus,
    Verb::MoveVcpu,
    Verb::Stats,
    Verb::Devices,
];

#[test]
fn a_guest_is_created_started_paused_restarted_ended_and_forgotten() {
    let scene = Scene::new();
    assert_eq!(scene.ask_example(Verb::Create).status, 204);
    assert_eq!(scene.info().state, VmState::Created);
    assert_eq!(scene.statuses(&[Verb::AddDisk, Verb::AddNet, Verb::AddVsock, Verb::AddFs]), [204; 4]);
    assert_eq!(scene.ask_example(Verb::Boot).status, 204);
    assert_eq!(scene.info().state, VmState::Running);
    assert_eq!(scene.statuses(&[Verb::Pause, Verb::Pause]), [204, 405]);
    assert_eq!(scene.info().state, VmState::Paused);
    assert_eq!(scene.statuses(&[Verb::Resume, Verb::Resume]), [204, 405]);
    assert_eq!(scene.statuses(&[Verb::PowerButton, Verb::Reboot]), [204; 2]);
    assert_eq!(scene.info().state, VmState::Running);
    let expected = [Ask::Run(Pace::Still), Ask::Run(Pace::Going), Ask::PowerButton, Ask::Stop];
    assert_eq!(scene.asked(), expected);
    assert_eq!(scene.ask_example(Verb::Shutdown).status, 204);
    assert_eq!(scene.info().state, VmState::Created);
    assert_eq!(scene.statuses(&[Verb::Boot, Verb::Delete, Verb::Info, Verb::Delete]), [204, 204, 404, 404]);
    assert_eq!(scene.ask_example(Verb::Quit).status, 204);
    assert_eq!(scene.end(), Next::Quit);
}

#[test]
fn what_a_guest_is_comes_back_as_it_was_given() {
    let scene = Scene::new();
    scene.ask_example(Verb::Create);
    scene.statuses(&[Verb::AddDisk, Verb::AddNet, Verb::AddVsock, Verb::AddFs]);
    let first = scene.info();
    let disks = first.config.disks.as_ref().expect("disks");
    assert_eq!(
        disks.iter().map(|disk| disk.id.as_deref()).collect::<Vec<_>>(),
        [Some("_disk0"), Some("data")]
    );
    assert_eq!(first.memory_actual_size, 512 << 20);
    let again = serde_json::to_vec(&first.config).expect("JSON");
    // Names that were made up are not taken from users, who cannot know of them.
    let again = String::from_utf8(again).expect("UTF-8").replace("\"_", "\"x");
    assert_eq!(scene.ask_example(Verb::Delete).status, 204);
    assert_eq!(scene.ask(Verb::Create, again.as_bytes()).status, 204);
    let text = |info| serde_json::to_string(info).expect("JSON").replace("\"_", "\"x");
    assert_eq!(text(&scene.info()), text(&first));
    assert_eq!(scene.ask_example(Verb::RemoveDevice).status, 204);
    assert_eq!(scene.info().config.disks.expect("disks").len(), 1);
    assert_eq!(scene.ask_example(Verb::RemoveDevice).status, 404);
    scene.ask_example(Verb::Quit);
}

#[test]
fn a_guest_that_is_not_there_or_does_not_run_is_told_apart() {
    let scene = Scene::new();
    assert_eq!(scene.statuses(&OF_A_RUNNING_GUEST), [404; 10]);
    assert_eq!(scene.statuses(&[Verb::Info, Verb::Boot, Verb::Delete, Verb::AddDisk]), [404; 4]);
    scene.ask_example(Verb::Create);
    assert_eq!(scene.statuses(&OF_A_RUNNING_GUEST), [405; 10]);
    assert_eq!(scene.ask_example(Verb::Create).status, 409);
    scene.ask_example(Verb::Boot);
    assert_eq!(scene.ask_example(Verb::Boot).status, 405);
    assert_eq!(scene.statuses(&[Verb::AddDisk, Verb::RemoveDevice]), [501; 2]);
    let replies = [Verb::Counters, Verb::Vcpus, Verb::MoveVcpu, Verb::Stats, Verb::Devices];
    assert_eq!(scene.statuses(&replies), [200; 5]);
    let counters = scene.ask_example(Verb::Counters).body.expect("a body");
    assert_eq!(counters["_disk0"]["pages_borrowed"], 3);
    scene.ask_example(Verb::Quit);
}

#[test]
fn a_guest_that_does_not_start_says_why_and_can_be_replaced() {
    let scene = Scene::new();
    assert_eq!(scene.ask(Verb::Create, br#"{"payload":{"kernel":"bad"}}"#).status, 204);
    let reply = scene.ask_example(Verb::Boot);
    let why = serde_json::json!(["the kernel bad is empty"]);
    assert_eq!((reply.status, reply.body), (500, Some(why)));
    assert_eq!(scene.statuses(&[Verb::Delete, Verb::Create, Verb::Boot]), [204; 3]);
    scene.ask_example(Verb::Quit);
    assert_eq!(scene.end(), Next::Quit);
}

#[test]
fn the_guests_own_ends_are_as_without_an_api() {
    let scene = Scene::new();
    scene.statuses(&[Verb::Create, Verb::Boot]);
    // A reset is no end: it is told to go on, and can be asked.
    scene.end_guest(EndCause::Reset);
    while scene.ask_example(Verb::Vcpus).status != 200 {}
    scene.end_guest(EndCause::PowerOff);
    let desk = scene.desk.clone();
    assert_eq!(scene.end(), Next::Exit);
    assert_eq!(desk.serve(Verb::Reboot, b"").status, 500, "nobody waits for what does not come");
}

#[test]
fn a_stop_is_the_end_of_the_process() {
    let scene = Scene::new();
    scene.statuses(&[Verb::Create, Verb::Boot]);
    assert_eq!(scene.ask_example(Verb::Stop).status, 204);
    assert_eq!(scene.end(), Next::Exit);
}

#[test]
fn what_tessera_has_not_is_refused_by_its_name() {
    let scene = Scene::new();
    for (body, part) in [
        ("", "the body: EOF"),
        ("[]", "the body: "),
        ("{}", "payload: the guest needs a kernel"),
        (r#"{"payload":{"kernel":"k"},"tpm":{"socket":"/x"}}"#, "\"tpm\": Tessera has no such thing"),
        (r#"{"payload":{"kernel":"k","firmware":"f"}}"#, "payload.\"firmware\""),
        (r#"{"payload":{"kernel":"k"},"memory":{"size":1,"hugepages":true}}"#, "memory.\"hugepages\""),
        (r#"{"payload":{"kernel":"k"},"cpus":{"boot_vcpus":1,"max_vcpus":2}}"#, "cpus.max_vcpus"),
        (r#"{"payload":{"kernel":"k"},"cpus":{"boot_vcpus":0}}"#, "at least one vCPU"),
        (r#"{"payload":{"kernel":"k"},"disks":[{"path":"/a","direct":true}]}"#, "disk.\"direct\""),
        (r#"{"payload":{"kernel":"k"},"disks":[{"path":"/a","num_queues":4}]}"#, "disk.num_queues"),
        (r#"{"payload":{"kernel":"k"},"disks":[{"path":"/a","id":"_a"}]}"#, "no '_' at its beginning"),
        (r#"{"payload":{"kernel":"k"},"net":[{"tap":"t","socket":"/s"}]}"#, "one of tap and socket"),
        (r#"{"payload":{"kernel":"k"},"net":[{"tap":"t","mac":"1"}]}"#, "net.mac"),
        (r#"{"payload":{"kernel":"k"},"fs":[{"tag":"t","socket":"/s"}]}"#, "fs.\"socket\""),
        (r#"{"payload":{"kernel":"k"},"fs":[{"tag":"t"}]}"#, "fs.path"),
        (r#"{"payload":{"kernel":"k"},"serial":{"mode":"File","file":"/f"}}"#, "serial.mode"),
        (r#"{"payload":{"kernel":"k"},"console":{"mode":"File"}}"#, "console.file is missing"),
        (r#"{"payload":{"kernel":"k"},"tessera":{"name":"a b"}}"#, "a guest's name"),
        (r#"{"payload":{"kernel":"k"},"tessera":{"speed":1}}"#, "unknown field `speed`"),
    ] {
        let reply = scene.ask(Verb::Create, body.as_bytes());
        let said = reply.body.expect("why").to_string().replace("\\\"", "\"");
        assert!(reply.status == 400 && said.contains(part), "{part:?} is not in {said}");
    }
    let twice = br#"{"payload":{"kernel":"k"},"disks":[{"path":"/a","id":"a"},{"path":"/b","id":"a"}]}"#;
    assert_eq!(scene.ask(Verb::Create, twice).status, 409);
    assert_eq!(scene.ask_example(Verb::Info).status, 404, "none of them is a guest");
    scene.ask_example(Verb::Quit);
}

#[test]
fn what_cloud_hypervisors_client_writes_out_is_taken() {
    // Its client sends every field, also those that say nothing.
    let disk = br#"{"path":"/images/data","readonly":false,"direct":false,"iommu":false,"num_queues":1,
        "queue_size":128,"vhost_user":false,"vhost_socket":null,"rate_limit_group":null,
        "rate_limiter_config":null,"id":null,"disable_io_uring":false,"disable_aio":false,"pci_segment":0,
        "serial":null,"queue_affinity":null,"backing_files":false,"sparse":true,"image_type":"Unknown",
        "lock_granularity":"ByteRange"}"#;
    let net = br#"{"tap":"tap0","ip":"192.168.249.1","mask":"255.255.255.0","mac":"2e:89:a8:e4:92:00",
        "host_mac":null,"mtu":null,"iommu":false,"num_queues":2,"queue_size":256,"vhost_user":false,
        "vhost_socket":null,"vhost_mode":"Client","id":null,"fds":null,"rate_limiter_config":null,
        "pci_segment":0,"offload_tso":true,"offload_ufo":true,"offload_csum":true}"#;
    let vsock = br#"{"cid":3,"socket":"/run/v","iommu":false,"id":null,"pci_segment":0}"#;
    let guest = br#"{"cpus":{"boot_vcpus":1,"max_vcpus":1,"topology":null,"kvm_hyperv":false,
        "max_phys_bits":46,"affinity":null,"features":{"amx":false}},"memory":{"size":536870912,
        "mergeable":false,"hotplug_method":"Acpi","hotplug_size":null,"shared":true,"hugepages":false,
        "prefault":false,"zones":null,"thp":true},"payload":{"firmware":null,"kernel":"/k","cmdline":"c",
        "initramfs":null},"disks":null,"rng":{"src":"/dev/urandom","iommu":false},"balloon":null,"fs":null,
        "console":{"file":null,"mode":"Off","iommu":false,"socket":null},"serial":{"file":null,"mode":"Tty",
        "iommu":false,"socket":null},"iommu":false,"watchdog":true,"pvpanic":false,"platform":null}"#;
    let scene = Scene::new();
    let ask = |verb, body: &[u8]| assert_eq!(scene.ask(verb, body).status, 204, "{verb:?}");
    ask(Verb::Create, guest);
    ask(Verb::AddDisk, disk);
    ask(Verb::AddNet, net);
    ask(Verb::AddVsock, vsock);
    scene.ask_example(Verb::Quit);
}

#[test]
fn every_verb_is_answered_without_a_body_and_with_nonsense() {
    for body in [&b""[..], b"null", b"\xff", b"{\"id\":7}"] {
        let scene = Scene::new();
        for (_, _, verb) in ROUTES.into_iter().filter(|(.., verb)| *verb != Verb::Quit) {
            scene.ask(verb, body);
        }
        scene.ask_example(Verb::Quit);
    }
}
