//! The guest's console on the launcher's standard input and output.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use tracing::debug;

use super::session::Event;
use crate::control::byte_queue::ByteQueue;
use crate::control::orders::{Order, INPUT_BYTES_MAX};
use crate::control::socket::FrameWriter;
use crate::host::signals::EndSignal;

/// Most bytes of output that wait for standard output.
const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Bytes read from standard input at a time.
const INPUT_READ_BYTES: usize = 1024;
/// How long standard output may take for the last of the console.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// Ctrl-A: what follows is for the launcher.
const ESCAPE: u8 = 1;

/// Puts a terminal into raw mode, and back when it is dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Makes standard input raw, if it is a terminal and this process is in front of it; `None` if not.
    ///
    /// Output is still processed, so that lines of our own begin at the left.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter() -> io::Result<Option<RawMode>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !is_foreground() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST;
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(RawMode { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _gone = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether reading standard input would not stop this process: it is in the terminal's foreground, or there
/// is none.
fn is_foreground() -> bool {
    match termios::tcgetpgrp(io::stdin()) {
        Ok(group) => group == rustix::process::getpgrp(),
        Err(_) => true,
    }
}

/// What of the keys is the guest's, and when the user asks to quit.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Takes Ctrl-A sequences out of `typed`: Ctrl-A x asks to quit (then true), Ctrl-A Ctrl-A is one Ctrl-A
    /// for the guest, Ctrl-A and anything else is both for the guest.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut guests = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            match (std::mem::take(&mut self.escaped), key) {
                (true, b'x') => return (guests, true),
                (true, ESCAPE) => guests.push(ESCAPE),
                (true, key) => guests.extend([ESCAPE, key]),
                (false, ESCAPE) => self.escaped = true,
                (false, key) => guests.push(key),
            }
        }
        (guests, false)
    }
}

/// The launcher's side of the console, for as long as the launcher lives.
pub struct Console {
    output: ByteQueue,
    input: Mutex<InputState>,
    changed: Condvar,
}

#[derive(Default)]
struct InputState {
    /// Where input goes: node 0 of the guest that runs.
    to: Option<Arc<FrameWriter>>,
    /// Bytes that are on the way.
    unacknowledged: usize,
}

impl Console {
    /// Starts the threads that read standard input and write standard output.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(keys_are_ours: bool, events: SyncSender<Event>) -> io::Result<Arc<Console>> {
        let console = Arc::new(Console {
            output: ByteQueue::new(OUTPUT_BYTES_MAX),
            input: Mutex::default(),
            changed: Condvar::new(),
        });
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let writing = console.clone();
        thread("stdout").spawn(move || writing.write_output())?;
        if !io::stdin().is_terminal() || keys_are_ours {
            let reading = console.clone();
            thread("stdin").spawn(move || reading.read_input(keys_are_ours, &events))?;
        }
        Ok(console)
    }

    /// Input goes to this guest from now on, or waits.
    pub fn connect(&self, to: Option<Arc<FrameWriter>>) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        *input = InputState { to, unacknowledged: 0 };
        drop(input);
        self.changed.notify_all();
    }

    /// The guest took this many bytes of input.
    pub fn acknowledged(&self, bytes: u32) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.unacknowledged = input.unacknowledged.saturating_sub(bytes as usize);
        drop(input);
        self.changed.notify_all();
    }

    /// The guest wrote this.
    pub fn write(&self, bytes: &[u8]) {
        self.output.put(bytes);
    }

    /// Waits until all output is written, within reason.
    pub fn flush(&self) {
        self.output.await_empty(FLUSH_LIMIT);
    }

    fn write_output(&self) {
        while let Some(taken) = self.output.take() {
            let mut stdout = io::stdout().lock();
            let mut written = stdout.write_all(&taken.bytes);
            if taken.lost > 0 && written.is_ok() {
                written = write!(
                    stdout,
                    "\n[{} bytes of console output were lost: too slow a reader]\n",
                    taken.lost
                );
            }
            if let Err(error) = written.and_then(|()| stdout.flush()) {
                // The guest runs on: its console is not its life.
                debug!("standard output is closed: {error}");
                return self.output.abandon();
            }
        }
    }

    fn read_input(&self, keys_are_ours: bool, events: &SyncSender<Event>) {
        let mut keys = Keys::default();
        let mut buffer = [0; INPUT_READ_BYTES];
        loop {
            let typed = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => &buffer[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return debug!("standard input is closed: {error}"),
            };
            let (guests, quit) = if keys_are_ours { keys.filter(typed) } else { (typed.to_vec(), false) };
            if !guests.is_empty() {
                self.send_input(guests);
            }
            if quit && events.send(Event::Signal(EndSignal::Terminate)).is_err() {
                return;
            }
        }
    }

    /// Waits until there is a guest which has room, and sends.
    fn send_input(&self, bytes: Vec<u8>) {
        let full = |input: &mut InputState| {
            input.to.is_none() || input.unacknowledged + bytes.len() > INPUT_BYTES_MAX
        };
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let mut input = self.changed.wait_while(input, full).unwrap_or_else(PoisonError::into_inner);
        input.unacknowledged += bytes.len();
        let to = input.to.clone();
        drop(input);
        if let Some(to) = to {
            // A guest that is lost takes its input with it.
            let _lost = to.send(&Order::Input(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_quits_and_all_else_reaches_the_guest() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(keys.filter(b"\x03\x1b[A"), (b"\x03\x1b[A".to_vec(), false));
        assert_eq!(keys.filter(b"a\x01"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"\x01b"), (b"\x01b".to_vec(), false));
        assert_eq!(keys.filter(b"\x01c"), (b"\x01c".to_vec(), false));
        assert_eq!(keys.filter(b"y\x01"), (b"y".to_vec(), false));
        assert_eq!(keys.filter(b"xz"), (vec![], true));
    }
}
