//! One host's set of statistics, as it lies in memory: where its tables are, for who writes and for who reads.

use core::sync::atomic::AtomicU64;

use super::stats::{HostStats, HotPage, SetHeader, Table, VcpuStats, SET_MAGIC};
use super::{Version, REGION_BYTES};
use crate::seqlock::{self, Fields, Reader, Writer, WORD_BYTES};

/// Records begin at multiples of this: who reads one does not slow down who writes the next.
const LINE: u64 = 64;
const HEADER_WORDS: usize = size_of::<SetHeader>() / WORD_BYTES;

/// Bytes of a record with such fields, its sequence number included.
const fn record_bytes<T>() -> usize {
    WORD_BYTES + size_of::<T>()
}

/// What a set must have room for; the same for all hosts of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetShape {
    /// vCPUs of the guest.
    pub vcpus: u32,
    /// One past the last guest-physical address of memory.
    pub memory_end: u64,
    /// Hot pages that are listed.
    pub hot_pages: u32,
}

impl SetShape {
    /// The header of host `host`'s set; `None` if there is more memory than a table can list (2^32 regions).
    pub fn header(&self, host: u32) -> Option<SetHeader> {
        let regions = u32::try_from(self.memory_end.div_ceil(REGION_BYTES)).ok()?;
        let mut end = size_of::<SetHeader>() as u64;
        let mut table = |count: u32, bytes: usize, line: u64| {
            let offset = end.next_multiple_of(LINE);
            let stride = (bytes as u64).next_multiple_of(line);
            end = offset + u64::from(count) * stride;
            Table { offset, stride: stride as u32, count }
        };
        Some(SetHeader {
            magic: SET_MAGIC,
            version: Version::CURRENT.to_bits(),
            host,
            reserved: 0,
            this: table(1, record_bytes::<HostStats>(), LINE),
            vcpus: table(self.vcpus, record_bytes::<VcpuStats>(), LINE),
            regions: table(regions, WORD_BYTES, WORD_BYTES as u64),
            hot_pages: table(self.hot_pages, record_bytes::<HotPage>(), WORD_BYTES as u64),
        })
    }

    /// Bytes of a set: whole pages.
    pub fn bytes(&self) -> Option<u64> {
        let Table { offset, stride, count } = self.header(0)?.hot_pages;
        Some((offset + u64::from(stride) * u64::from(count)).next_multiple_of(super::PAGE_BYTES))
    }
}

/// A set.
#[derive(Clone, Copy, Debug)]
pub struct StatsSet<'a> {
    words: &'a [AtomicU64],
    header: SetHeader,
}

impl<'a> StatsSet<'a> {
    /// The host's node: makes memory of zeros host `host`'s set. `None` if it is too short.
    pub fn create(words: &'a [AtomicU64], host: u32, shape: &SetShape) -> Option<Self> {
        let header = shape.header(host)?;
        if (words.len() as u64) < shape.bytes()? / WORD_BYTES as u64 {
            return None;
        }
        seqlock::store(words, &header);
        Some(StatsSet { words, header })
    }

    /// Who reads: the set in memory; `None` if there is none that this version can use.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        let header: SetHeader = seqlock::load(words.get(..HEADER_WORDS)?);
        let usable = Version::CURRENT.can_use(Version::from_bits(header.version));
        (header.magic == SET_MAGIC && usable).then_some(StatsSet { words, header })
    }

    /// Whose set it is, and where its tables are.
    pub fn header(&self) -> &SetHeader {
        &self.header
    }

    /// The host, to be read.
    pub fn host(&self) -> Option<Reader<'a, HostStats>> {
        Reader::new(self.record::<HostStats>(self.header.this, 0)?)
    }

    /// The host, to be written.
    pub fn host_writer(&self) -> Option<Writer<'a, HostStats>> {
        Writer::new(self.record::<HostStats>(self.header.this, 0)?)
    }

    /// A vCPU, to be read.
    pub fn vcpu(&self, vcpu: u32) -> Option<Reader<'a, VcpuStats>> {
        Reader::new(self.record::<VcpuStats>(self.header.vcpus, vcpu)?)
    }

    /// A vCPU, to be written.
    pub fn vcpu_writer(&self, vcpu: u32) -> Option<Writer<'a, VcpuStats>> {
        Writer::new(self.record::<VcpuStats>(self.header.vcpus, vcpu)?)
    }

    /// The word of the region that an address lies in; see [`RegionStats`](super::stats::RegionStats).
    pub fn region(&self, address: u64) -> Option<&'a AtomicU64> {
        let region = u32::try_from(address / REGION_BYTES).ok()?;
        self.words.get(self.header.regions.record(region, WORD_BYTES)?)
    }

    /// A hot page, to be read.
    pub fn hot_page(&self, index: u32) -> Option<Reader<'a, HotPage>> {
        Reader::new(self.record::<HotPage>(self.header.hot_pages, index)?)
    }

    /// A hot page, to be written.
    pub fn hot_page_writer(&self, index: u32) -> Option<Writer<'a, HotPage>> {
        Writer::new(self.record::<HotPage>(self.header.hot_pages, index)?)
    }

    fn record<T: Fields>(&self, table: Table, index: u32) -> Option<&'a [AtomicU64]> {
        self.words.get(table.record(index, record_bytes::<T>())?..)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::sync::atomic::Ordering;
    use std::vec::Vec;

    use zerocopy::FromZeros;

    use super::*;
    use crate::paravirt::names::Name;
    use crate::paravirt::stats::{vcpu_flags, RegionStats};

    const SHAPE: SetShape = SetShape { vcpus: 3, memory_end: 5 << 30, hot_pages: 4 };

    fn memory(bytes: u64) -> Vec<AtomicU64> {
        (0..bytes / WORD_BYTES as u64).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn tables_follow_each_other_on_lines_of_their_own() {
        let header = SHAPE.header(1).expect("possible");
        assert_eq!(header.this, Table { offset: 128, stride: 640, count: 1 });
        assert_eq!(header.vcpus, Table { offset: 768, stride: 448, count: 3 });
        assert_eq!(header.regions, Table { offset: 2112, stride: 8, count: 2560 });
        assert_eq!(header.hot_pages, Table { offset: 22_592, stride: 32, count: 4 });
        assert_eq!(SHAPE.bytes(), Some(24_576));
        let huge = SetShape { memory_end: u64::MAX, ..SHAPE };
        assert_eq!((huge.header(0), huge.bytes()), (None, None));
    }

    #[test]
    fn the_host_writes_what_the_guest_reads() {
        let words = memory(SHAPE.bytes().expect("possible"));
        assert!(StatsSet::new(&words).is_none(), "zeros");
        let host = StatsSet::create(&words, 2, &SHAPE).expect("room");
        let guest = StatsSet::new(&words).expect("a set");
        assert_eq!(guest.header().host, 2);
        let name = Name::new("host-b").expect("a name");
        let stats = HostStats { name, cpus: 8, speed: 12_000, ..HostStats::new_zeroed() };
        host.host_writer().expect("there").write(&stats);
        assert_eq!(guest.host().expect("there").read().expect("whole").fields, stats);
        for vcpu in 0..3 {
            let stats = VcpuStats { vcpu, flags: vcpu_flags::HERE, moves: 7, ..VcpuStats::default() };
            host.vcpu_writer(vcpu).expect("there").write(&stats);
            assert_eq!(guest.vcpu(vcpu).expect("there").read().expect("whole").fields, stats);
        }
        let region = RegionStats { heat: 5, owned: 512, copies: 0 };
        region.store(host.region((5 << 30) - 1).expect("the last one"));
        assert_eq!(RegionStats::load(guest.region((5 << 30) - REGION_BYTES).expect("there")), region);
        let page = HotPage { address: 0x5000, hosts: 3, moves_per_second: 90, moves: 1000 };
        host.hot_page_writer(3).expect("there").write(&page);
        assert_eq!(guest.hot_page(3).expect("there").read().expect("whole").fields, page);
        assert!(guest.vcpu(3).is_none() && guest.hot_page(4).is_none() && guest.region(5 << 30).is_none());
    }

    #[test]
    fn whatever_a_header_says_nothing_is_read_beyond_the_set() {
        let words = memory(SHAPE.bytes().expect("possible"));
        assert!(StatsSet::create(&words[..100], 0, &SHAPE).is_none(), "too short");
        let header = SHAPE.header(0).expect("possible");
        let beyond = Table { offset: 1 << 40, stride: 640, count: u32::MAX };
        let short = Table { stride: 8, ..header.vcpus };
        let end = Table { offset: (words.len() * WORD_BYTES) as u64 - 64, stride: 640, count: 2 };
        for table in [beyond, short, end] {
            seqlock::store(&words, &SetHeader { this: table, vcpus: table, hot_pages: table, ..header });
            let set = StatsSet::new(&words).expect("a set");
            assert!(set.host().is_none() && set.vcpu(0).is_none(), "{table:?}");
        }
        seqlock::store(&words, &SetHeader { version: 2 << 16, ..header });
        assert!(StatsSet::new(&words).is_none(), "version 2");
        words[0].store(0, Ordering::Relaxed);
        assert!(StatsSet::new(&words).is_none());
    }
}
