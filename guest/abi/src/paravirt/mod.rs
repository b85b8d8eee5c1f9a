//! The paravirtual device: what a guest can know of where it is, and ask for. Specification: `docs/guest-abi.md`.
//!
//! Three areas of memory and a doorbell:
//! - [`stats`]: statistics, one set of pages for each host, written by that host alone; [`set`]: how to find one's way in it;
//! - [`events`]: a ring of what has happened, and the disruption marker;
//! - [`segments`]: shared segments, by key or name;
//! - [`registers`] and [`request`]: the control page with the doorbell, and the slots in which requests are made.
//!
//! A guest that knows nothing of the device runs all the same. A guest that misuses it can only hurt itself: nothing in the
//! areas is read by the hosts but request slots, and of these every field is checked ([`request::Request::decode`]).
//!
//! All numbers are little-endian and lie at multiples of their size. Fields that are not used are zero; what a guest does not
//! know it must ignore.

pub mod events;
pub mod names;
pub mod registers;
pub mod request;
pub mod segments;
pub mod set;
pub mod stats;

/// First word of the control page: "TSSR" as the bytes lie in memory.
pub const MAGIC: u32 = u32::from_le_bytes(*b"TSSR");

/// Version of all that is described here. With another major version nothing is where it was; a greater minor version only
/// adds: fields in places that were reserved, kinds of events, requests and reasons, feature bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// Must be the same on both sides.
    pub major: u16,
    /// The device's may be greater than the guest's.
    pub minor: u16,
}

impl Version {
    /// The version that this crate describes.
    pub const CURRENT: Version = Version { major: 1, minor: 0 };

    /// As it stands in a register: the major version in the upper half.
    pub const fn to_bits(self) -> u32 {
        (self.major as u32) << 16 | self.minor as u32
    }

    /// From a register.
    pub const fn from_bits(bits: u32) -> Self {
        Version { major: (bits >> 16) as u16, minor: bits as u16 }
    }

    /// Whether a guest written for this version can use a device of version `device`.
    pub const fn can_use(self, device: Version) -> bool {
        self.major == device.major && self.minor <= device.minor
    }
}

/// What a device offers, and what a guest makes use of: a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features(pub u64);

impl Features {
    /// None.
    pub const NONE: Features = Features(0);
    /// [`stats::HostStats`] are kept up to date.
    pub const HOSTS: Features = Features(1 << 0);
    /// [`stats::VcpuStats`] likewise.
    pub const VCPUS: Features = Features(1 << 1);
    /// [`stats::RegionStats`] likewise.
    pub const REGIONS: Features = Features(1 << 2);
    /// [`stats::HotPage`]s likewise.
    pub const HOT_PAGES: Features = Features(1 << 3);
    /// Events are written, and the disruption marker.
    pub const EVENTS: Features = Features(1 << 4);
    /// Requests to move vCPUs.
    pub const MOVE: Features = Features(1 << 5);
    /// Requests to lock and unlock vCPUs.
    pub const LOCK: Features = Features(1 << 6);
    /// Requests to pull pages to a host.
    pub const PULL: Features = Features(1 << 7);
    /// Hints about what vCPUs do.
    pub const HINTS: Features = Features(1 << 8);
    /// Shared segments that are strictly coherent.
    pub const SEGMENTS: Features = Features(1 << 9);
    /// Shared segments with eager release.
    pub const EAGER_RELEASE: Features = Features(1 << 10);
    /// All that this version knows.
    pub const ALL: Features = Features((1 << 11) - 1);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// What is left when a guest accepts `accepted` of what this device offers: bits that are not offered do not count, and
    /// eager release needs segments.
    #[must_use]
    pub const fn accepted(self, accepted: Features) -> Features {
        let both = self.0 & accepted.0;
        let needs_segments = both & Features::SEGMENTS.0 == 0;
        Features(if needs_segments { both & !Features::EAGER_RELEASE.0 } else { both })
    }
}

/// Most hosts of one guest.
pub const HOSTS_MAX: u32 = 32;
/// Most vCPUs of one guest.
pub const VCPUS_MAX: u32 = 4096;
/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of a region, the unit of [`stats::RegionStats`].
pub const REGION_BYTES: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_can_use_devices_of_its_major_version_that_are_not_older() {
        let version = |major, minor| Version { major, minor };
        assert!(version(1, 0).can_use(version(1, 0)));
        assert!(version(1, 0).can_use(version(1, 7)));
        assert!(!version(1, 1).can_use(version(1, 0)));
        assert!(!version(1, 0).can_use(version(2, 0)));
        assert!(!version(2, 0).can_use(version(1, 9)));
        assert_eq!(version(3, 4).to_bits(), 0x0003_0004);
        assert_eq!(Version::from_bits(0x0003_0004), version(3, 4));
    }

    #[test]
    fn only_what_is_offered_can_be_accepted() {
        let offered = Features::HOSTS.union(Features::SEGMENTS).union(Features::EAGER_RELEASE);
        assert_eq!(offered.accepted(Features(u64::MAX)), offered);
        assert_eq!(offered.accepted(Features::MOVE), Features::NONE);
        assert_eq!(offered.accepted(Features::EAGER_RELEASE), Features::NONE, "of which segments?");
        assert!(Features::ALL.contains(offered) && !offered.contains(Features::ALL));
    }
}
