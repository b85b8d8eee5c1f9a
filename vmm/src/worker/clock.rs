//! Comparing this host's TSC with node 0's: before the start with everything else quiet, and then once a
//! second.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::control::frame::{self, FrameError, FrameReader};
use crate::control::peer::PeerFrame;
use crate::control::stats::ClockStats;
use crate::time::estimate::{cycles_to_ns, skew_bound, Estimator, Round, TscOffset};

/// Rounds before the start.
const ROUNDS: u32 = 200;
/// Rounds that a node may ask of node 0 before the start.
const ROUNDS_MAX: u32 = 2 * ROUNDS;
/// Rounds of the running guest that are looked at together.
const WINDOW: usize = 64;

/// This host's TSC, read after everything before it.
pub fn tsc() -> u64 {
    // SAFETY: x86-64 always has both instructions.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// Asks node 0 on a connection that nobody else uses yet; how far its TSC is ahead of ours, and the fastest
/// round trip.
///
/// # Errors
/// When the connection fails, or node 0 does not answer as it should.
pub fn compare_with_node0(control: &TcpStream, by: Instant) -> Result<(TscOffset, u64), FrameError> {
    let mut estimator = Estimator::default();
    let (mut writer, mut reader) = (control, FrameReader::new(control));
    for _ in 0..ROUNDS {
        let asked = tsc();
        frame::write(&mut writer, &PeerFrame::ClockPing { sent: asked })?;
        match reader.read(Some(by))? {
            PeerFrame::ClockPong { sent, there } if sent == asked => {
                estimator.add(Round { sent, there, back: tsc() });
            }
            _ => return Err(FrameError::Malformed { bytes: 0 }),
        }
    }
    frame::write(&mut writer, &PeerFrame::ClocksCompared)?;
    match (estimator.offset(), estimator.round_trip()) {
        (Some(offset), Some(round_trip)) => Ok((offset, round_trip)),
        _ => Err(FrameError::TimedOut),
    }
}

/// On node 0: answers a peer's comparison.
///
/// # Errors
/// When the connection fails, or the peer does not ask as it should.
pub fn answer_comparison(control: &TcpStream, by: Instant) -> Result<(), FrameError> {
    let (mut writer, mut reader) = (control, FrameReader::new(control));
    for _ in 0..=ROUNDS_MAX {
        match reader.read(Some(by))? {
            PeerFrame::ClockPing { sent } => {
                frame::write(&mut writer, &PeerFrame::ClockPong { sent, there: tsc() })?;
            }
            PeerFrame::ClocksCompared => return Ok(()),
            _ => break,
        }
    }
    Err(FrameError::Malformed { bytes: 0 })
}

/// What is known of the clock while the guest runs.
#[derive(Debug)]
pub struct Clock {
    /// What the guest's TSC was set up with.
    used: TscOffset,
    tsc_khz: u32,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    window: VecDeque<Round>,
    round_trip: u64,
    comparisons: u64,
}

impl Clock {
    /// A clock that was set up with `used`, for which the fastest round took `round_trip` cycles.
    pub fn new(used: TscOffset, round_trip: u64, tsc_khz: u32) -> Self {
        Clock {
            used,
            tsc_khz,
            running: Mutex::new(Running { window: VecDeque::new(), round_trip, comparisons: 0 }),
        }
    }

    /// How far node 0's TSC is ahead of ours, as the guest's TSC was set up with.
    pub fn used(&self) -> TscOffset {
        self.used
    }

    /// Whether both clocks are one, so that there is nothing to compare.
    pub fn is_same_machine(&self) -> bool {
        self.used == TscOffset::SAME_MACHINE
    }

    /// Takes a round of the running guest into account.
    pub fn add(&self, round: Round) {
        let Some(round_trip) = round.back.checked_sub(round.sent) else { return };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.window.len() >= WINDOW {
            running.window.pop_front();
        }
        running.window.push_back(round);
        running.round_trip = running.round_trip.min(round_trip);
        running.comparisons += 1;
    }

    /// The figures.
    pub fn stats(&self) -> ClockStats {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut estimator = Estimator::default();
        running.window.iter().for_each(|&round| estimator.add(round));
        let now = estimator.offset().unwrap_or(self.used);
        ClockStats {
            skew_bound_ns: cycles_to_ns(skew_bound(self.used, now), self.tsc_khz),
            round_trip_ns: cycles_to_ns(running.round_trip, self.tsc_khz),
            comparisons: running.comparisons,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let one = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (one, listener.accept().expect("accept").0)
    }

    #[test]
    fn a_clock_compared_with_itself_differs_by_no_more_than_the_bound() {
        let (node1, node0) = pair();
        let by = Instant::now() + Duration::from_secs(20);
        let answer = std::thread::spawn(move || answer_comparison(&node0, by));
        let (offset, round_trip) = compare_with_node0(&node1, by).expect("compared");
        answer.join().expect("no panic").expect("answered");
        assert!(offset.ahead.unsigned_abs() <= offset.error_bound, "{offset:?}");
        assert_eq!(offset.error_bound, round_trip.div_ceil(2));
    }

    #[test]
    fn a_peer_that_asks_for_ever_or_nonsense_is_cut_off() {
        for frame in [PeerFrame::ClockPing { sent: 0 }, PeerFrame::Alive { pages_alone: 0 }] {
            let (node1, node0) = pair();
            let by = Instant::now() + Duration::from_secs(20);
            let answer = std::thread::spawn(move || answer_comparison(&node0, by));
            while frame::write(&mut &node1, &frame).is_ok() && !answer.is_finished() {}
            assert!(matches!(answer.join().expect("no panic"), Err(FrameError::Malformed { .. })));
        }
    }

    #[test]
    fn drift_shows_in_the_bound() {
        let clock = Clock::new(TscOffset { ahead: 0, error_bound: 500 }, 1000, 1_000_000);
        assert_eq!(clock.stats(), ClockStats { skew_bound_ns: 500, round_trip_ns: 1000, comparisons: 0 });
        clock.add(Round { sent: 0, there: 5050, back: 100 });
        assert_eq!(clock.stats(), ClockStats { skew_bound_ns: 5050, round_trip_ns: 100, comparisons: 1 });
        (0..100).for_each(|_| clock.add(Round { sent: 0, there: 9000, back: 400 }));
        assert_eq!(clock.stats().skew_bound_ns, 9000, "old rounds no longer count");
    }
}
