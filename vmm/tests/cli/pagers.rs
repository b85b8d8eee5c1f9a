//! Guests whose nodes have several pagers each.

use crate::cuts::{payload, results};
use crate::support::{run, start, Daemon};

/// Runs tests of the payload over so many nodes with two pagers each, while a vCPU moves round all of them.
fn pass_while_moving(nodes: usize, links: &str, words: &str, tests: usize) {
    let daemons: Vec<Daemon> = (0..nodes).map(|_| Daemon::start()).collect();
    let hosts: Vec<&str> = daemons.iter().map(|daemon| daemon.address.as_str()).collect();
    let (hosts, vcpus, kernel) = (hosts.join(","), format!("boot={nodes}"), payload());
    let pagers = ["--pagers", "2", "--stripe-mib", "2", "--links", links];
    let guest = ["run", "--hosts", &hosts, "--kernel", &kernel, "--cmdline", words, "--cpus", &vcpus];
    let rest = ["--memory", "size=66M", "--events", "json"];
    let running = start(&[&guest[..], &rest, &pagers].concat());
    running.await_stderr("\"started\"");
    let mut moves = 0;
    while !running.stderr().contains("\"ended\"") {
        let to = ((moves + 1) % nodes).to_string();
        let moved = run(&["vcpu", "move", "0", "--to", &to, "--host", &daemons[0].address]);
        // It may end meanwhile.
        moves += usize::from(moved.status == 0);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let output = running.end();
    assert_eq!(results(&output), tests, "{output:?}");
    assert!(moves > 0, "nothing moved: {output:?}");
    println!("{moves} moves");
    daemons.into_iter().for_each(|daemon| drop(daemon.stop()));
}

#[test]
fn memory_is_right_with_two_pagers_on_each_of_two_nodes() {
    let words = "test=xadd,xadd_straddle,mem_touch mb=8 rounds=100000";
    pass_while_moving(2, "shared", words, 3);
}

#[test]
fn memory_order_holds_with_two_pagers_on_each_of_three_nodes() {
    let words = "test=xadd,litmus shapes=MP,SB+mfences,WRC place=apart,homes rounds=1000";
    // One result of `xadd`, and one of each shape in each place.
    pass_while_moving(3, "tcp", words, 7);
}
