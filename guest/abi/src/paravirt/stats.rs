//! Statistics: one set of pages for each host. A set is written by that host's node alone, so it needs no lock between
//! hosts; it is memory of the guest like any other and travels when it is read elsewhere.
//!
//! A set begins with a [`SetHeader`], which never changes. It says where the tables are; records may be longer than this version
//! knows. Records of host, vCPUs and hot pages are [sequence-locked](crate::seqlock): 8 bytes of sequence number, then the
//! fields. A region is one word.

use core::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::names::Name;
use super::HOSTS_MAX;

/// First word of a set: "TSST" as the bytes lie in memory.
pub const SET_MAGIC: u32 = u32::from_le_bytes(*b"TSST");

/// A table in a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// Where its first record begins in the set, in bytes; a multiple of 64.
    pub offset: u64,
    /// Bytes from one record to the next; a multiple of 8.
    pub stride: u32,
    /// How many records there are.
    pub count: u32,
}

impl Table {
    /// Where record `index` begins, in words from the start of the set; `None` if there is none. `record_bytes` is the length that
    /// the caller knows: a table of shorter records is not one that it can read.
    pub fn record(&self, index: u32, record_bytes: usize) -> Option<usize> {
        let fits = index < self.count && self.stride as usize >= record_bytes;
        let begin = self.offset.checked_add(u64::from(index).checked_mul(u64::from(self.stride))?)?;
        (fits && begin.is_multiple_of(8)).then(|| usize::try_from(begin / 8).ok()).flatten()
    }
}

/// The beginning of a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetHeader {
    /// [`SET_MAGIC`]; zero if the host was never part of the guest.
    pub magic: u32,
    /// [`Version::to_bits`](super::Version::to_bits) of who writes the set.
    pub version: u32,
    /// Whose set it is.
    pub host: u32,
    /// Zero.
    pub reserved: u32,
    /// One record, of [`HostStats`].
    pub this: Table,
    /// By vCPU, of [`VcpuStats`].
    pub vcpus: Table,
    /// By region of guest memory, [`RegionStats`] as words. Region 0 begins at guest-physical address 0.
    pub regions: Table,
    /// Of [`HotPage`]s, hottest first.
    pub hot_pages: Table,
}

/// States of a host.
pub mod host_state {
    /// It is not part of the guest.
    pub const ABSENT: u8 = 0;
    /// It is being made part of it.
    pub const JOINING: u8 = 1;
    /// It takes vCPUs and memory.
    pub const ONLINE: u8 = 2;
    /// It gives away what it has and takes nothing.
    pub const DRAINING: u8 = 3;
    /// It is gone for ever.
    pub const LOST: u8 = 4;
}

/// How a host is off for memory.
pub mod memory_state {
    /// There is enough.
    pub const FREE: u8 = 1;
    /// It gives away what it can.
    pub const LOW: u8 = 2;
    /// It takes nothing, and vCPUs leave it because of that.
    pub const OUT: u8 = 3;
}

/// Bits of [`HostStats::flags`].
pub mod host_flags {
    /// No vCPU moves here by itself.
    pub const BLOCKED: u16 = 1 << 0;
    /// No vCPU leaves by itself.
    pub const STAY: u16 = 1 << 1;
    /// The guest's devices live here.
    pub const HOME: u16 = 1 << 2;
}

/// A host's connection to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LinkStats {
    /// Round trip of a small message, in nanoseconds, smoothed; 0 if not known, `u32::MAX` if that or more.
    pub round_trip_ns: u32,
    /// Zero.
    pub reserved: u32,
    /// What the link carries, in bytes per second; 0 if not known.
    pub bytes_per_second: u64,
}

/// A host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HostStats {
    /// When this was written, in ticks.
    pub written: u64,
    /// What the host is called.
    pub name: Name,
    /// Tells machines apart whatever they are called: 16 bytes that are the same for the same machine.
    pub machine: [u8; 16],
    /// Physical CPUs that may work for this guest.
    pub cpus: u32,
    /// How fast one of them is; 10000 is the reference.
    pub speed: u32,
    /// Load, for the host's own decisions: rises slowly, falls at once. In thousandths of what its CPUs would do at reference
    /// speed.
    pub load_mean: u32,
    /// Load, for others' decisions: rises at once, falls slowly. Same unit.
    pub load_upper: u32,
    /// Memory that the guest may take here, in bytes.
    pub memory_quota: u64,
    /// Of that, what it has taken, in bytes.
    pub memory_used: u64,
    /// Of that, what is free, in bytes: less than the difference if the host itself is short.
    pub memory_free: u64,
    /// [`host_state`].
    pub state: u8,
    /// [`memory_state`].
    pub memory_state: u8,
    /// [`host_flags`].
    pub flags: u16,
    /// vCPUs that run here.
    pub vcpus: u32,
    /// Bytes sent to other hosts for this guest, since it began.
    pub sent: u64,
    /// Bytes received from them.
    pub received: u64,
    /// To each host, by number; its own is zero.
    pub links: [LinkStats; HOSTS_MAX as usize],
}

/// Bits of [`VcpuStats::flags`].
pub mod vcpu_flags {
    /// It runs on this host. If no host says so, it is on its way.
    pub const HERE: u32 = 1 << 0;
    /// It does not move by itself.
    pub const LOCKED: u32 = 1 << 1;
}

/// Kinds of faults, by place in [`VcpuStats::faults`].
pub mod fault_kind {
    /// A page came to be read.
    pub const READ: usize = 0;
    /// A page came to be written.
    pub const WRITE: usize = 1;
    /// A page that was here to be read became writable.
    pub const UPGRADE: usize = 2;
    /// How many kinds there are.
    pub const COUNT: usize = 3;
}

/// Buckets of a histogram of latencies.
pub const LATENCY_BUCKETS: usize = 15;
/// Below this many microseconds a latency is in bucket 0.
pub const FIRST_BUCKET_US: u64 = 8;

/// The bucket of a latency: bucket 0 below 8 us, then one for each doubling, the last for 65.536 ms and more.
pub const fn latency_bucket(latency_us: u64) -> usize {
    let halves = latency_us / (FIRST_BUCKET_US / 2);
    let doublings = if halves == 0 { 0 } else { halves.ilog2() as usize };
    if doublings < LATENCY_BUCKETS {
        doublings
    } else {
        LATENCY_BUCKETS - 1
    }
}

/// The longest latency of a bucket, in microseconds; `None` for the last bucket, which has no end.
pub const fn bucket_end_us(bucket: usize) -> Option<u64> {
    if bucket + 1 < LATENCY_BUCKETS {
        Some((FIRST_BUCKET_US << bucket) - 1)
    } else {
        None
    }
}

/// Faults of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FaultStats {
    /// Sum of their latencies, in nanoseconds.
    pub total_ns: u64,
    /// How many, by [`latency_bucket`].
    pub by_latency: [u64; LATENCY_BUCKETS],
}

/// A vCPU, as one host knows it: what it did while it was there. Sums over all hosts are those of its whole life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuStats {
    /// Which one.
    pub vcpu: u32,
    /// [`vcpu_flags`].
    pub flags: u32,
    /// How often it has moved in all, as known when it was here last. Of several hosts' records the one with the greatest
    /// number is the latest.
    pub moves: u64,
    /// The time in which it ran nowhere, of its last move to this host, in nanoseconds.
    pub last_blackout_ns: u64,
    /// The longest of any move to this host, in nanoseconds.
    pub worst_blackout_ns: u64,
    /// Time that it waited for pages of other hosts, in nanoseconds.
    pub stalled_ns: u64,
    /// Time that it was here, in nanoseconds.
    pub resident_ns: u64,
    /// By [`fault_kind`].
    pub faults: [FaultStats; fault_kind::COUNT],
}

/// A region of guest memory, as one host knows it. All hosts' words of a region together say whose it is and who wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RegionStats {
    /// This host's faults in it, fading (half in 27 s unless hinted otherwise), writes counted twice.
    pub heat: u32,
    /// Pages of it that this host owns, 0 to 512.
    pub owned: u16,
    /// Pages of it that this host may only read.
    pub copies: u16,
}

impl RegionStats {
    /// As one word: the heat in the lower half, then the pages owned, then the copies.
    pub const fn to_word(self) -> u64 {
        self.heat as u64 | (self.owned as u64) << 32 | (self.copies as u64) << 48
    }

    /// From a word.
    pub const fn from_word(word: u64) -> Self {
        RegionStats { heat: word as u32, owned: (word >> 32) as u16, copies: (word >> 48) as u16 }
    }

    /// Writes it; one store, so that nobody sees half of it.
    pub fn store(self, word: &AtomicU64) {
        word.store(self.to_word(), Ordering::Relaxed);
    }

    /// Reads it.
    pub fn load(word: &AtomicU64) -> Self {
        RegionStats::from_word(word.load(Ordering::Relaxed))
    }
}

/// A page that hosts fight for. It is in the set of the host that keeps the page's directory entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HotPage {
    /// Guest-physical address of its first byte; 0 and no hosts: the place is free.
    pub address: u64,
    /// Hosts that took it in the last seconds, a bit each.
    pub hosts: u32,
    /// How often it changed hands per second, smoothed.
    pub moves_per_second: u32,
    /// How often it changed hands since the guest began.
    pub moves: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<SetHeader>() == 80);
    assert!(offset_of!(SetHeader, regions) == 48);
    assert!(size_of::<LinkStats>() == 16);
    assert!(size_of::<HostStats>() == 632);
    assert!(offset_of!(HostStats, cpus) == 56 && offset_of!(HostStats, state) == 96);
    assert!(offset_of!(HostStats, links) == 120);
    assert!(size_of::<FaultStats>() == 128);
    assert!(size_of::<VcpuStats>() == 432);
    assert!(offset_of!(VcpuStats, faults) == 48);
    assert!(size_of::<HotPage>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_buckets_that_double() {
        let buckets = [0, 7, 8, 15, 16, 31, 1000, 65_535, 65_536, u64::MAX].map(latency_bucket);
        assert_eq!(buckets, [0, 0, 1, 1, 2, 2, 7, 13, 14, 14]);
        for bucket in 0..LATENCY_BUCKETS {
            match bucket_end_us(bucket) {
                Some(end) => assert_eq!([end, end + 1].map(latency_bucket), [bucket, bucket + 1]),
                None => assert_eq!(bucket, LATENCY_BUCKETS - 1),
            }
        }
    }

    #[test]
    fn a_region_is_one_word() {
        let region = RegionStats { heat: 0x0102_0304, owned: 512, copies: 7 };
        assert_eq!(region.to_word(), 0x0007_0200_0102_0304);
        assert_eq!(RegionStats::from_word(region.to_word()), region);
        let word = AtomicU64::new(0);
        region.store(&word);
        assert_eq!(RegionStats::load(&word), region);
    }

    #[test]
    fn records_are_found_only_where_they_are_whole() {
        let table = Table { offset: 4096, stride: 448, count: 3 };
        assert_eq!(table.record(0, 440), Some(512));
        assert_eq!(table.record(2, 448), Some(512 + 2 * 56));
        assert_eq!(table.record(3, 8), None, "beyond the end");
        assert_eq!(table.record(0, 449), None, "longer than what is there");
        let odd = Table { offset: 4, ..table };
        assert_eq!(odd.record(0, 8), None, "not whole words");
        let wide = Table { offset: u64::MAX - 7, stride: u32::MAX, count: u32::MAX };
        assert_eq!(wide.record(u32::MAX - 1, 8), None, "beyond all addresses");
    }
}
