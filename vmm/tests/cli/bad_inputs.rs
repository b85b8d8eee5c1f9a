//! One line for each mistake, before any host is touched.

use crate::support::{code, run, text, Program};

#[track_caller]
fn refused(arguments: &[&str], parts: &[&str]) {
    let output = run(arguments);
    assert_eq!(output.status, 1, "{output:?}");
    assert_eq!(output.stdout, "");
    let line = output.error_line();
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn mistakes_on_the_command_line_take_one_line() {
    refused(&[], &["node, run, list"]);
    refused(&["fly"], &["unrecognized subcommand 'fly'"]);
    refused(&["run"], &["--kernel"]);
    refused(&["run", "--kernel", "k", "--cpus", "boot=many"], &["--cpus: boot=many: this is no number"]);
    refused(&["run", "--kernel", "k", "--cpus", "sockets=2"], &["there is no \"sockets\"", "boot, per-host"]);
    refused(&["run", "--kernel", "k", "--memory", "size=4X"], &["--memory: size=4X", "512M"]);
    refused(&["run", "--kernel", "k", "--memory", "per-host=[1G"], &["a bracket is not closed"]);
    refused(&["run", "--kernel", "k", "--memory", "size=3K"], &["not a multiple of 2 MiB"]);
    refused(&["run", "--kernel", "k", "--hosts", "a,a"], &["--hosts names a:7070 twice"]);
    refused(&["run", "--kernel", "k", "--hosts", "a:99999"], &["a:99999", "port"]);
    refused(
        &["run", "--kernel", "k", "--cpus", "boot=3,per-host=[1,1]"],
        &["per-host has 2 numbers, and there are 1"],
    );
    refused(&["run", "--kernel", "k", "--name", "a b"], &["letters, digits"]);
    refused(&["run", "--kernel", "k", "--pagers", "0"], &["--pagers", "0 is not in 1..=8"]);
    refused(&["run", "--kernel", "k", "--pagers", "9"], &["--pagers", "9 is not in 1..=8"]);
    refused(&["run", "--kernel", "k", "--pagers", "many"], &["--pagers", "many"]);
    refused(&["vcpu", "move", "one", "--to", "0"], &["one"]);
    refused(&["node", "--max-guests", "0"], &["max-guests"]);
    refused(&["node", "--log-filter", "a=b=c"], &["log filter"]);
    refused(&["worker", "--launcher-fd", "0", "--lifeline-fd", "1"], &["not by hand"]);
    refused(&["worker", "--launcher-fd", "77", "--lifeline-fd", "78"], &["not by hand"]);
}

#[test]
fn files_that_cannot_be_booted_are_named() {
    let program = Program::new(&code::halt());
    let beside = |name: &str, bytes: &[u8]| {
        std::fs::write(program.beside(name), bytes).expect("write");
        text(&program.beside(name))
    };
    let missing = text(&program.beside("missing"));
    refused(&["run", "--kernel", &missing], &["cannot read the kernel", &missing, "No such file"]);
    refused(&["run", "--kernel", "/"], &["the kernel / is not a regular file"]);
    refused(&["run", "--kernel", "/dev/null"], &["/dev/null is not a regular file"]);
    refused(&["run", "--kernel", &beside("empty", b"")], &["is empty"]);
    refused(&["run", "--kernel", &beside("script", b"#!/bin/sh\necho\n")], &["neither a bzImage nor an ELF"]);
    let mut arm = std::fs::read(program.path()).expect("read");
    arm[18] = 183;
    refused(&["run", "--kernel", &beside("arm", &arm)], &["no x86-64 executable"]);
    refused(
        &["run", "--kernel", &program.path(), "--initramfs", &missing],
        &["cannot read the initramfs", &missing],
    );
    let cut = std::fs::read(program.path()).expect("read")[..100].to_vec();
    refused(&["run", "--kernel", &beside("cut", &cut)], &["this machine: "]);
}

#[test]
fn guests_that_cannot_be_are_refused() {
    let program = Program::new(&code::halt());
    let kernel = program.path();
    refused(
        &["run", "--kernel", &kernel, "--memory", "size=64T"],
        &["MiB of memory free", "needs 67108864 MiB"],
    );
    refused(&["run", "--kernel", &kernel, "--cpus", "boot=256"], &["1 to 255 vCPUs, not 256"]);
    refused(&["run", "--kernel", &kernel, "--cmdline", &"x".repeat(3000)], &["command line", "2048"]);
    refused(&["run", "--kernel", &kernel, "--lease-us", "1000001"], &["1000001"]);
}

#[test]
fn devices_that_cannot_be_had_are_named() {
    let program = Program::new(&code::halt());
    let kernel = program.path();
    let beside = |name: &str, bytes: &[u8]| {
        std::fs::write(program.beside(name), bytes).expect("write");
        text(&program.beside(name))
    };
    let missing = text(&program.beside("missing"));
    let raw = beside("raw", &[0; 4096]);
    // The head of a qcow2 image whose tables are a MiB behind it, and no more of it.
    let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
    head.resize(4096, 0);
    head[23] = 16;
    head[39] = 200;
    head[45] = 0x10;
    let qcow2 = beside("qcow2", &head);
    let device = |option: &str, value: String, parts: &[&str]| {
        refused(&["run", "--kernel", &kernel, option, &value], parts);
    };
    device("--disk", format!("path={missing}"), &["disk image", &missing, "No such file"]);
    device("--disk", "path=/".into(), &["/ is neither a file nor a block device"]);
    device("--disk", format!("path={}", beside("small", b"x")), &["small has 1 bytes"]);
    device("--disk", format!("path={qcow2}"), &[&qcow2, "image_type=qcow2"]);
    device("--disk", format!("path={qcow2},image_type=qcow2"), &[&qcow2, "cut short"]);
    device("--disk", format!("path={raw},image_type=qcow2"), &[&raw, "no qcow2 image"]);
    device("--net", "tap=lo".into(), &["tap device lo"]);
    device("--net", format!("socket={missing}"), &[&missing]);
    device("--rng", format!("src={missing}"), &[&missing, "No such file"]);
    device("--console", format!("file={missing}/log"), &["console", &missing]);
    device("--vsock", format!("cid=3,socket={missing}/v"), &["cannot listen", &missing]);
    device("--vsock", "cid=2,socket=/v".into(), &["from 3 to", "not 2"]);
    device("--config", missing.clone(), &[&missing, "cannot read it"]);
}

#[test]
fn hosts_that_cannot_be_asked_are_named() {
    let program = Program::new(&code::halt());
    let kernel = program.path();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let nobody = free.local_addr().expect("address").to_string();
    drop(free);
    refused(
        &["run", "--kernel", &kernel, "--hosts", &nobody],
        &["host", &nobody, "connection refused", "tessera node"],
    );
    refused(
        &["list", "--host", &nobody],
        &[&nobody, "connection refused", "is `tessera node` running there?"],
    );
    refused(&["stats", "--host", &nobody], &[&nobody, "connection refused"]);
    refused(
        &["run", "--kernel", &kernel, "--hosts", "no-such-host.invalid"],
        &["host no-such-host.invalid:7070"],
    );
}

#[test]
fn every_verb_explains_itself() {
    for verb in [
        &[][..],
        &["node"],
        &["run"],
        &["list"],
        &["vcpu"],
        &["vcpu", "list"],
        &["vcpu", "move"],
        &["stats"],
        &["stop"],
        &["power-button"],
        &["device"],
        &["device", "list"],
    ] {
        let mut arguments = verb.to_vec();
        arguments.push("--help");
        let output = run(&arguments);
        assert!(output.status == 0 && output.stdout.contains("Example"), "{verb:?}: {output:?}");
    }
    assert!(run(&["--version"]).stdout.starts_with("tessera "));
    assert!(run(&["completions"]).stdout.contains("complete -o default -F _tessera tessera"));
}
