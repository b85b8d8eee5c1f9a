//! The registers.

use tessera_abi::port::watchdog as at;

/// What one count is, in milliseconds.
pub const PERIOD_MS: u32 = 100;
/// The shortest time-out, in counts.
pub const COUNT_MIN: u32 = 10;
/// The longest, in counts.
pub const COUNT_MAX: u32 = 36_000;

/// The registers and, while it runs, when it has run down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Countdown {
    count: u32,
    expires_ms: Option<u64>,
}

impl Default for Countdown {
    fn default() -> Self {
        Countdown { count: COUNT_MAX, expires_ms: None }
    }
}

impl Countdown {
    /// When it has run down, if it runs.
    pub(super) fn expires_ms(self) -> Option<u64> {
        self.expires_ms
    }

    /// What a register reads at this time. (They are 32 bits wide and four bytes apart.)
    pub(super) fn read(self, register: u16, now_ms: u64) -> u32 {
        match register {
            at::COUNT => self.count,
            at::LEFT => match self.expires_ms {
                // No more than the count, which has 32 bits.
                Some(expires) => (expires.saturating_sub(now_ms) / u64::from(PERIOD_MS)) as u32,
                None => self.count,
            },
            at::CONTROL => u32::from(self.expires_ms.is_some()),
            _ => 0,
        }
    }

    /// Writes a register at this time.
    pub(super) fn write(&mut self, register: u16, value: u32, now_ms: u64) {
        let is_running = self.expires_ms.is_some();
        let runs = match register {
            at::COUNT => {
                self.count = value.clamp(COUNT_MIN, COUNT_MAX);
                is_running
            }
            at::CONTROL if value & 1 == 0 => {
                self.expires_ms = None;
                return;
            }
            at::CONTROL if is_running => return,
            at::CONTROL => true,
            at::KICK => is_running,
            _ => return,
        };
        // Whatever is said to it, it begins anew.
        self.expires_ms = runs.then(|| now_ms + u64::from(self.count) * u64::from(PERIOD_MS));
    }
}
