//! Signals that end a process, taken one at a time by a thread that waits for them.
//!
//! They are blocked in all threads, so that nothing is interrupted half-way and no code runs in a signal
//! handler.

use std::io;
use std::mem::MaybeUninit;

/// What a process was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndSignal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM, or SIGHUP when the terminal is gone.
    Terminate,
}

/// Blocks SIGINT, SIGTERM and SIGHUP in this thread and in those that it starts from now on. Call it before
/// any thread is started.
///
/// # Errors
/// When the operating system refuses.
pub fn block() -> io::Result<()> {
    let set = ending_set();
    // SAFETY: `set` is an initialised signal set, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Waits for the next of the blocked signals.
///
/// # Errors
/// When the operating system refuses.
pub fn wait() -> io::Result<EndSignal> {
    let set = ending_set();
    let mut signal = 0;
    // SAFETY: both point to live values of the right type.
    match unsafe { libc::sigwait(&set, &mut signal) } {
        0 if signal == libc::SIGINT => Ok(EndSignal::Interrupt),
        0 => Ok(EndSignal::Terminate),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Calls `act` for each ending signal, on a thread of its own, for as long as the process lives.
///
/// # Errors
/// When the thread cannot be started.
pub fn watch(mut act: impl FnMut(EndSignal) + Send + 'static) -> io::Result<()> {
    let watch = move || {
        while let Ok(signal) = wait() {
            act(signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(|_| ())
}

fn ending_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that it is given, and sigaddset gets an initialised one;
    // neither fails for signals that exist.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}
