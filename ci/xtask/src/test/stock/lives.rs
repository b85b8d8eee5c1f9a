//! The lives of a guest over two hosts: CPUs that go and come, a console that listens; a reboot, a panic.

use anyhow::{ensure, Result};

use super::hosts::GUEST_MIB;
use super::{guest_on_two, json, losses, BOOT_LIMIT, STEP_LIMIT};
use crate::cluster::Cluster;
use crate::dialogue::Dialogue;
use crate::guest::{GuestSpec, OnReset};

/// What the guest's shell says when it listens.
const PROMPT: &str = "tessera> ";
/// The kernel's first line, which a log level of 6 lets through.
pub const KERNEL_STARTS: &str = "Linux version";
/// The exit status of a run that a reset ends.
const RESET_STATUS: i32 = 10;

/// CPUs go and come under load and idle, the console answers, nothing disturbs the guest; a reboot ends the run.
///
/// # Errors
/// What does not hold.
pub fn hotplug_console_reboot(cluster: &Cluster) -> Result<()> {
    let cmdline = "loglevel=4 maxcpus=1 tessera.run=hotplug:rounds=2 tessera.end=shell";
    let mut guest = Dialogue::start(cluster, &guest_on_two("lives", GUEST_MIB, cmdline))?;
    let ready = guest.expect_line("TESSERA-READY ", BOOT_LIMIT)?;
    ensure!(json(&ready)?["nproc"] == 2, "not both CPUs: {ready}");
    let result = guest.expect_line("TESSERA-RESULT ", STEP_LIMIT)?;
    println!("{result}");
    ensure!(json(&result)?["ok"] == true, "CPUs went or came wrongly: {result}");
    guest.expect(PROMPT, STEP_LIMIT)?;
    for (typed, answer) in [
        ("echo one line", "one line"),
        ("nproc", "2"),
        // By hand as well: CPU 1, which is on the other host, has nothing to do when it goes.
        ("offline 1", "1"),
        ("online 1", "2"),
        ("offline 1", "1"),
        ("online 1", "2"),
    ] {
        let said = guest.ask(typed, PROMPT, STEP_LIMIT)?;
        ensure!(said.trim() == answer, "{typed}: {said:?} in place of {answer:?}");
    }
    losses::disturb(cluster)?;
    let log = guest.ask("log", PROMPT, STEP_LIMIT)?;
    ensure!(log.trim().is_empty(), "the kernel's log tells of trouble:\n{log}");
    guest.say("reboot\n")?;
    let ending = guest.end(STEP_LIMIT)?;
    ensure!(ending.status == RESET_STATUS, "status {}\n{}", ending.status, ending.launcher_said);
    ensure!(ending.lines().is_empty(), "a guest's own end needs no words: {:?}", ending.lines());
    Ok(())
}

/// A panic starts the guest anew, on both hosts; a worker that is killed while the kernel boots again ends it.
///
/// # Errors
/// What does not hold.
pub fn panic_restart_kill(cluster: &Cluster) -> Result<()> {
    let spec = GuestSpec {
        on_reset: OnReset::Restart,
        ..guest_on_two("lives", GUEST_MIB, "loglevel=6 maxcpus=1 tessera.end=panic")
    };
    let mut guest = Dialogue::start(cluster, &spec)?;
    guest.expect(KERNEL_STARTS, BOOT_LIMIT)?;
    guest.expect("Kernel panic - not syncing: sysrq triggered crash", BOOT_LIMIT)?;
    guest.expect(KERNEL_STARTS, BOOT_LIMIT)?;
    losses::kill(cluster, guest)
}
