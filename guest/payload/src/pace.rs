//! When the instances of a batch begin, by the clock that all CPUs share.
//!
//! The *lead* is the time from the moment that thread 0 names the beginning until then: long enough for the page with
//! the news to reach the others. The *gap* is the time from one instance to the next: as long as it takes to run one, page
//! faults included. If they are shorter, threads run behind the clock and one after the other; if longer, time is wasted.
//! So both follow how late threads were in the last batch.

/// The shortest gap, in cycles: of the order of a test whose pages are all here.
pub const GAP_MIN: u64 = 200;
/// The longest gap, in cycles: a few page faults. If that is not enough, threads are late for want of a processor.
pub const GAP_MAX: u64 = 300_000;

/// The gap for the next batch, after one in which `late` of `all` instances began late.
pub fn next_gap(gap: u64, late: u64, all: u64) -> u64 {
    let next = match () {
        () if 2 * late > all => gap.saturating_add(gap / 2),
        () if 4 * late < all => gap - gap / 8,
        () => gap,
    };
    next.clamp(GAP_MIN, GAP_MAX)
}

/// The longest lead, in cycles. Who needs longer has no processor to run on.
pub const LEAD_MAX: u64 = 10_000_000;
/// The shortest lead, in cycles.
pub const LEAD_MIN: u64 = 2_000;

/// The lead for the next batch, after one to which the last thread came `late` cycles late.
pub fn next_lead(lead: u64, late: u64) -> u64 {
    let next = if late > 0 { lead.saturating_add(late.min(lead)) } else { lead - lead / 8 };
    next.clamp(LEAD_MIN, LEAD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_and_lead_settle_where_threads_are_just_in_time() {
        // Each instance takes 50,000 cycles: late are those that begin while the one before runs.
        let mut gap = GAP_MIN;
        for _ in 0..100 {
            let late = if gap < 50_000 { 64 } else { 20 };
            gap = next_gap(gap, late, 64);
        }
        assert!((50_000..100_000).contains(&gap), "{gap}");
        // News take 300,000 cycles to travel.
        let mut lead = LEAD_MIN;
        for _ in 0..100 {
            lead = next_lead(lead, 300_000_u64.saturating_sub(lead));
        }
        assert!((200_000..600_000).contains(&lead), "{lead}");
        assert_eq!(next_lead(LEAD_MIN, 0), LEAD_MIN);
        assert_eq!(next_lead(LEAD_MAX, u64::MAX), LEAD_MAX);
        assert_eq!(next_gap(GAP_MIN, 0, 64), GAP_MIN);
        assert_eq!(next_gap(GAP_MAX, 64, 64), GAP_MAX);
    }
}
