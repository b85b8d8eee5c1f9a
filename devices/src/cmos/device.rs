//! Index and data port.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;

/// Registers, by index.
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Divider and rate as a PC has them; no update in progress, ever.
const STATUS_A_VALUE: u8 = 0x26;
/// BCD, 24 hours, no interrupts.
const STATUS_B_VALUE: u8 = 0x02;
/// The battery is good.
const STATUS_D_VALUE: u8 = 0x80;
/// Bit 7 of the index masks NMIs on a PC; it is no part of the index.
const INDEX_MASK: u8 = 0x7f;

/// The host's time: seconds since 1970.
pub fn system_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// All that the clock remembers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct CmosState {
    index: u8,
}

/// The clock.
pub struct CmosClock {
    state: Mutex<CmosState>,
    now: fn() -> u64,
}

impl CmosClock {
    /// A clock that shows `now`, in seconds since 1970.
    pub fn new(now: fn() -> u64) -> Self {
        CmosClock { state: Mutex::default(), now }
    }

    fn with<T>(&self, f: impl FnOnce(&mut CmosState) -> T) -> T {
        // One byte, always whole.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn register(&self, index: u8) -> u8 {
        let seconds = (self.now)();
        let days = seconds / 86_400;
        let (year, month, day) = date(days);
        match index {
            SECONDS => bcd(seconds % 60),
            MINUTES => bcd(seconds / 60 % 60),
            HOURS => bcd(seconds / 3600 % 24),
            // 1 January 1970 was a Thursday; Sunday is 1.
            DAY_OF_WEEK => bcd((days + 4) % 7 + 1),
            DAY => bcd(day),
            MONTH => bcd(month),
            YEAR => bcd(year % 100),
            CENTURY => bcd(year / 100 % 100),
            STATUS_A => STATUS_A_VALUE,
            STATUS_B => STATUS_B_VALUE,
            STATUS_D => STATUS_D_VALUE,
            _ => 0,
        }
    }
}

impl BusDevice for CmosClock {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The index port cannot be read.
        if let (1, Some(byte)) = (offset, data.first_mut()) {
            *byte = self.register(self.with(|state| state.index));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Some(index)) = (offset, data.first()) {
            self.with(|state| state.index = index & INDEX_MASK);
        }
    }
}

/// Two decimal digits of a number below 100.
fn bcd(value: u64) -> u8 {
    (((value / 10) << 4) | (value % 10)) as u8
}

/// Year, month and day of the Gregorian calendar, `days` days after 1 January 1970.
///
/// Counts in eras of 400 years that begin on 1 March, so that the leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_MARCH_0_TO_1970: u64 = 719_468;
    const DAYS_IN_ERA: u64 = 146_097;
    let days = days + DAYS_FROM_MARCH_0_TO_1970;
    let (era, day_of_era) = (days / DAYS_IN_ERA, days % DAYS_IN_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 153 days in every five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
