//! Processes: fork, exec, pipes both ways, exit codes and signals, on all CPUs at once. A child is this
//! program again, with `--child`.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::Finding;
use crate::cpus;
use crate::json::Object;
use crate::orders::Order;
use crate::random::{mix, Random};
use crate::trouble::Trouble;

/// The program itself, in any mount namespace that has /proc.
const SELF: &str = "/proc/self/exe";
/// Bytes sent to a child: more than a pipe holds at once.
const TEXT_BYTES: usize = 96 << 10;

/// What one thread did and found.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    children: u64,
    killed: u64,
    wrong: u64,
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, &byte| mix(hash ^ u64::from(byte)))
}

/// The child's part: `hash` answers with the hash of its input and exits with the hash's low bits; `sleep`
/// waits to be killed.
pub fn child(arguments: &[&str]) -> ExitCode {
    match arguments {
        ["hash"] => {
            let mut bytes = vec![];
            if std::io::stdin().read_to_end(&mut bytes).is_err() {
                return ExitCode::from(255);
            }
            let sum = hash(&bytes);
            print!("{sum:016x}");
            ExitCode::from((sum & 0x3f) as u8)
        }
        ["sleep"] => {
            println!("asleep");
            std::thread::sleep(Duration::from_secs(600));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(254),
    }
}

fn command(program: &str, what: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--child", what]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// A child that reads a text and answers. Gives whether its answer and exit code are right.
fn hashing(program: &str, random: &mut Random) -> Result<bool, Trouble> {
    let text: Vec<u8> = (0..TEXT_BYTES / 8).flat_map(|_| random.word().to_le_bytes()).collect();
    let mut child =
        command(program, "hash").spawn().map_err(Trouble::os(format!("starting {program} --child hash")))?;
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(&text));
    let output = child.wait_with_output().map_err(Trouble::os("waiting for a child"))?;
    let expected = hash(&text);
    Ok(matches!(sent, Some(Ok(())))
        && output.stdout == format!("{expected:016x}").into_bytes()
        && output.status.code() == Some((expected & 0x3f) as i32))
}

/// A child that is killed by a signal once it has said that it runs. Gives whether that is how it ended.
fn killing(program: &str, signal: libc::c_int) -> Result<bool, Trouble> {
    let mut child = command(program, "sleep")
        .spawn()
        .map_err(Trouble::os(format!("starting {program} --child sleep")))?;
    let mut word = [0; 6];
    let said = child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut word));
    // SAFETY: the child has not been waited for, so its number is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    let status = child.wait().map_err(Trouble::os("waiting for a killed child"))?;
    Ok(matches!(said, Some(Ok(()))) && &word == b"asleep" && status.signal() == Some(signal))
}

fn work(me: usize, program: &str, end: Instant) -> Result<Tally, Trouble> {
    let mut tally = Tally::default();
    let mut random = Random::new(me as u64);
    while Instant::now() < end || tally.children == 0 {
        tally.wrong += u64::from(!hashing(program, &mut random)?);
        tally.children += 1;
        let signal = [libc::SIGTERM, libc::SIGKILL, libc::SIGUSR1][random.below(3) as usize];
        tally.wrong += u64::from(!killing(program, signal)?);
        tally.killed += 1;
    }
    Ok(tally)
}

/// Runs the program. Parameters: `seconds` (2), `threads`.
///
/// # Errors
/// Parameters that make no sense, or a kernel that starts no processes.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    run_with(order, SELF)
}

fn run_with(order: &Order, program: &str) -> Result<Finding, Trouble> {
    order.only(&["seconds", "threads"])?;
    let cpus = cpus::spread(order.number("threads", 0, 0)?.min(1024) as usize);
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(order.seconds("seconds", 2.0)?);
    let tallies =
        cpus::on_each(&cpus, |me| work(me, program, end))?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let sum = |pick: fn(&Tally) -> u64| tallies.iter().map(pick).sum::<u64>();
    let wrong = sum(|tally| tally.wrong);
    let mut figures = Object::default();
    figures
        .add("threads", cpus.len())
        .add("children", sum(|tally| tally.children))
        .add("killed", sum(|tally| tally.killed));
    figures.add("wrong", wrong);
    Ok(Finding { figures, seconds: start.elapsed().as_secs_f64(), ok: wrong == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_answer_right_is_wrong() {
        // `true` reads nothing and says nothing, whatever its arguments.
        assert!(!hashing("/bin/true", &mut Random::new(1)).unwrap());
        assert!(!killing("/bin/true", libc::SIGTERM).unwrap());
        assert!(hashing("/does/not/exist", &mut Random::new(1)).is_err());
    }
}
