//! The lives of a guest over two hosts: CPUs that go and come, a console that listens, a reboot, a panic; and its end.

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

/// Three lives: the first ends by a reboot, the second by a panic, the third by a worker that is killed.
///
/// # Errors
/// What does not hold.
pub fn run(cluster: &Cluster) -> Result<()> {
    let cmdline = "loglevel=6 maxcpus=1 tessera.run=hotplug:rounds=2 tessera.end=shell";
    let spec = GuestSpec { on_reset: OnReset::Restart, ..guest_on_two("lives", GUEST_MIB, cmdline) };
    let mut guest = Dialogue::start(cluster, &spec)?;
    first(cluster, &mut guest)?;
    guest.say("reboot\n")?;
    come_up(&mut guest)?;
    ensure!(guest.ask("nproc", PROMPT, STEP_LIMIT)?.trim() == "2", "not both CPUs after the reboot");
    guest.say("panic\n")?;
    guest.expect("Kernel panic - not syncing: sysrq triggered crash", STEP_LIMIT)?;
    guest.expect(KERNEL_STARTS, BOOT_LIMIT)?;
    losses::kill(cluster, guest)
}

/// The guest comes up, its CPUs go and come under load, and it answers on its console.
fn first(cluster: &Cluster, guest: &mut Dialogue) -> Result<()> {
    come_up(guest)?;
    for (typed, answer) in [
        ("echo one line", "one line"),
        ("nproc", "2"),
        // By hand as well: from here on CPU 1, which is on the other host, has nothing to do when it goes.
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
    Ok(())
}

/// Waits until the guest is up, has done its work, and listens.
fn come_up(guest: &mut Dialogue) -> Result<()> {
    let ready = guest.expect_line("TESSERA-READY ", BOOT_LIMIT)?;
    ensure!(json(&ready)?["nproc"] == 2, "not both CPUs: {ready}");
    let result = guest.expect_line("TESSERA-RESULT ", STEP_LIMIT)?;
    ensure!(json(&result)?["ok"] == true, "CPUs went or came wrongly: {result}");
    let problems = guest.expect_line("TESSERA-LOG-PROBLEMS ", STEP_LIMIT)?;
    let log = guest.expect(PROMPT, STEP_LIMIT)?;
    ensure!(problems == "0", "the kernel's log tells of trouble:\n{log}");
    Ok(())
}

/// A panic resets the guest, and the run ends with that status.
///
/// # Errors
/// What does not hold.
pub fn reset_ends_the_run(cluster: &Cluster) -> Result<()> {
    let spec = guest_on_two("reset", GUEST_MIB, "loglevel=6 maxcpus=1 tessera.end=panic");
    let mut guest = Dialogue::start(cluster, &spec)?;
    guest.expect("Kernel panic - not syncing: sysrq triggered crash", BOOT_LIMIT)?;
    let ending = guest.end(STEP_LIMIT)?;
    ensure!(ending.status == RESET_STATUS, "status {}\n{}", ending.status, ending.launcher_said);
    ensure!(ending.lines().is_empty(), "a guest's own end needs no words: {:?}", ending.lines());
    Ok(())
}
