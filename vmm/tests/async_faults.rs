//! Asynchronous page faults: a bare-metal guest waits for pages halted, and goes on only when it is told that they have come.

mod cluster;

use cluster::{Cluster, ClusterSpec};

/// Lanes that may be left out where they cannot run; these tests are in the lane `payload`.
const ALLOW_SKIP: &str = "TESSERA_ALLOW_SKIP";

/// Whether the KVM of this machine has them. One that has not fails the test, unless its lane may be left out.
fn offered() -> bool {
    let kvm = kvm_ioctls::Kvm::new().expect("/dev/kvm");
    let supported = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).expect("CPUID");
    let hosts = [supported.as_slice().to_vec()];
    let Err(lacking) = tessera_vmm::cpuid::offer_async_faults(&mut vec![], &hosts) else { return true };
    let allowed = std::env::var(ALLOW_SKIP).unwrap_or_default();
    assert!(
        allowed.split(',').any(|lane| lane.trim() == "payload"),
        "this machine {lacking}; {ALLOW_SKIP}=payload leaves out what needs them"
    );
    println!("left out: this machine {lacking} (allowed by {ALLOW_SKIP})");
    false
}

/// A figure of the payload's result line.
fn figure(console: &str, name: &str) -> u64 {
    let (_, rest) = console.split_once(&format!("\"{name}\":")).expect("the figure is there");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[test]
fn a_guest_that_waits_for_tokens_is_told_of_every_page() {
    if !offered() {
        return;
    }
    let cluster =
        Cluster::start(ClusterSpec::payload("test=async_faults rounds=4000", 2, 2).with_async_faults());
    cluster.await_end();
    let waited: u64 = cluster.nodes.iter().map(|node| node.pager.stats().kernel_stalls.faults).sum();
    let console = cluster.expect_pass();
    let absent = figure(&console, "absent");
    assert!(absent > 20, "only {absent} asynchronous faults: this shows nothing");
    assert!(waited > 0, "KVM's threads fetched the pages, and the pager took them for vCPUs");
}

#[test]
fn a_vcpu_that_moves_while_its_guest_waits_for_tokens_is_woken_where_it_is() {
    if !offered() {
        return;
    }
    let spec = ClusterSpec::payload("test=async_faults rounds=3000000 limit=250", 2, 2).with_async_faults();
    let cluster = Cluster::start(spec);
    cluster.wait_for("TESSERA-READY");
    let made = cluster.keep_moving(&[0, 1], usize::MAX);
    let console = cluster.expect_pass();
    let (absent, woken_all) = (figure(&console, "absent"), figure(&console, "woken_all"));
    println!("{made} moves, {absent} asynchronous faults, all woken {woken_all} times");
    assert!(made > 20, "only {made} moves");
    assert!(woken_all > 0, "no move met a guest that has them switched on");
}

#[test]
fn a_guest_that_is_not_offered_them_has_none() {
    let cluster = Cluster::start(ClusterSpec::payload("test=async_faults", 1, 1));
    let (end, console) = cluster.finish();
    assert_eq!(figure(&console, "offered"), 0);
    assert_ne!(end, tessera_devices::GuestEnd::PayloadExit(0));
}
