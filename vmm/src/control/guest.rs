//! A guest's identity, and everything that a node must know to run its part of the guest.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;
use std::time::Duration;

use kvm_bindings::{kvm_cpuid_entry2, KVM_MAX_CPUID_ENTRIES};
use serde::{Deserialize, Serialize};
use tessera_dsm::stripes::STRIPE_BYTES_MIN;
use tessera_dsm::{Layout, NodeId, Stripes, NODES_MAX, SHARDS_MAX};
use thiserror::Error;

use super::address::HostAddress;
use super::devices::{self, DeviceSpec, DeviceSpecError};
use crate::cpuid::APIC_ID_MAX;

/// Most vCPUs of a guest.
pub const VCPUS_MAX: usize = 255;
/// Most bytes in a kernel command line, with its final zero: what Linux takes on x86.
pub const CMDLINE_BYTES_MAX: usize = 2048;
/// Most characters in a guest's name.
pub const NAME_CHARS_MAX: usize = 64;
/// After how many milliseconds a silent node is lost unless told otherwise.
pub const LOST_AFTER_MS_DEFAULT: u32 = 4000;
/// The least of that: nodes say once a second that they are alive.
pub const LOST_AFTER_MS_MIN: u32 = 2000;
/// The most of that.
pub const LOST_AFTER_MS_MAX: u32 = 600_000;
/// Longest time for which a pager looks for the next event without sleeping.
pub const BUSY_POLL_US_MAX: u32 = 10_000;
/// Longest lease on a granted page.
pub const LEASE_US_MAX: u32 = 1_000_000;

/// Tells guests apart: 128 random bits, made by the launcher. Who knows it may join the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct GuestId(pub u128);

impl GuestId {
    /// A new id.
    ///
    /// # Errors
    /// When the system's random source cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(GuestId(u128::from_le_bytes(bytes)))
    }
}

impl fmt::Display for GuestId {
    /// The first eight digits: enough to tell guests apart in a log, too little to join one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// What users call a guest. Unique on each daemon.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestName(String);

/// A text is no guest name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a guest's name has 1 to {NAME_CHARS_MAX} letters, digits, '-', '_' or '.'")]
pub struct NameError;

impl FromStr for GuestName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let valid = !text.is_empty() && text.len() <= NAME_CHARS_MAX && text.chars().all(fits);
        valid.then(|| GuestName(text.into())).ok_or(NameError)
    }
}

impl TryFrom<String> for GuestName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<GuestName> for String {
    fn from(name: GuestName) -> String {
        name.0
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One host of a guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestHost {
    /// Where its daemon listens, as the launcher and the other hosts reach it.
    pub address: HostAddress,
    /// Its own name for itself.
    pub hostname: String,
    /// Its kernel's boot id: equal for two nodes on the same machine, whose clocks are then one.
    pub boot_id: String,
}

/// A vCPU and the node where it runs first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VcpuPlace {
    /// Its APIC id.
    pub apic_id: u32,
    /// Where it starts.
    pub node: NodeId,
}

/// Everything that one node must know about the guest. The same for all nodes but for `me`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestSpec {
    /// The guest.
    pub guest: GuestId,
    /// Its name.
    pub name: GuestName,
    /// The node that this is for.
    pub me: NodeId,
    /// All hosts, by node.
    pub hosts: Vec<GuestHost>,
    /// Guest memory.
    pub layout: Layout,
    /// All vCPUs, by number.
    pub vcpus: Vec<VcpuPlace>,
    /// What every vCPU's CPUID is made from: the features that all hosts have.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// The guest's TSC frequency.
    pub tsc_khz: u32,
    /// The kernel command line.
    pub cmdline: String,
    /// For how long a granted page may be kept before it can be taken away; `None`: the pager's choice.
    pub lease_us: Option<u32>,
    /// How its nodes are connected.
    pub links: LinkSpec,
    /// How many pagers each node has.
    pub pagers: PagerSpec,
    /// What the home node gives to the guest besides a console.
    pub devices: Vec<DeviceSpec>,
}

/// How guest memory is shared out among the pagers of a node; see [`tessera_dsm::stripes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PagerSpec {
    /// The most pagers that each node has; fewer where memory has fewer stripes.
    pub most: u8,
    /// The least MiB in a stripe.
    pub stripe_mib: u32,
}

/// MiB in a stripe unless told otherwise.
pub const STRIPE_MIB_DEFAULT: u32 = (STRIPE_BYTES_MIN >> 20) as u32;
/// The least of that: an extent.
pub const STRIPE_MIB_MIN: u32 = 2;
/// The most of that.
pub const STRIPE_MIB_MAX: u32 = 1 << 20;

impl Default for PagerSpec {
    fn default() -> Self {
        PagerSpec { most: 1, stripe_mib: STRIPE_MIB_DEFAULT }
    }
}

/// What pages go over between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Transport {
    /// Shared memory between nodes on one machine, if that works; else TCP.
    #[default]
    Auto,
    /// TCP.
    Tcp,
    /// Shared memory. All nodes are on one machine.
    Shared,
}

/// How the nodes of a guest are connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinkSpec {
    /// What pages go over.
    pub transport: Transport,
    /// After how many milliseconds a node that is silent, or cannot be connected to again, is lost.
    pub lost_after_ms: u32,
    /// For how many microseconds after each event a pager looks for the next one without sleeping; 0: not at all.
    pub busy_poll_us: u32,
}

impl LinkSpec {
    /// After how long a node that is silent, or cannot be connected to again, is lost.
    pub fn lost_after(&self) -> Duration {
        Duration::from_millis(self.lost_after_ms.into())
    }
}

impl Default for LinkSpec {
    fn default() -> Self {
        LinkSpec { transport: Transport::Auto, lost_after_ms: LOST_AFTER_MS_DEFAULT, busy_poll_us: 0 }
    }
}

/// What is wrong with a guest's description.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// A guest has 1 to [`NODES_MAX`] nodes.
    #[error("a guest has 1 to {NODES_MAX} nodes, not {0}")]
    Hosts(usize),
    /// The node is not one of the guest's.
    #[error("{0} is not one of the guest's {1} nodes")]
    Node(NodeId, usize),
    /// A guest has 1 to [`VCPUS_MAX`] vCPUs.
    #[error("a guest has 1 to {VCPUS_MAX} vCPUs, not {0}")]
    Vcpus(usize),
    /// APIC ids are 0 to [`APIC_ID_MAX`], one for each vCPU.
    #[error("APIC id {0} is used twice or out of range")]
    ApicId(u32),
    /// CPUID has too many leaves.
    #[error("{0} CPUID entries, the most is {KVM_MAX_CPUID_ENTRIES}")]
    Cpuid(usize),
    /// The command line is too long or holds a zero byte.
    #[error(
        "the kernel command line has {0} bytes or holds a zero byte; \
         the most is {CMDLINE_BYTES_MAX} with its end"
    )]
    Cmdline(usize),
    /// The lease is too long.
    #[error("a lease of {0} us is longer than {LEASE_US_MAX} us")]
    Lease(u32),
    /// The time after which a node is lost is out of range.
    #[error("a node is lost after {LOST_AFTER_MS_MIN} to {LOST_AFTER_MS_MAX} ms, not {0}")]
    LostAfter(u32),
    /// Polling for too long.
    #[error("polling for {0} us is longer than {BUSY_POLL_US_MAX} us")]
    BusyPoll(u32),
    /// Too few or too many pagers.
    #[error("a node has 1 to {SHARDS_MAX} pagers, not {0}")]
    Pagers(u8),
    /// The length of stripes is out of range.
    #[error("a stripe has {STRIPE_MIB_MIN} to {STRIPE_MIB_MAX} MiB, not {0}")]
    Stripe(u32),
    /// A device cannot be.
    #[error(transparent)]
    Device(#[from] DeviceSpecError),
    /// A text is too long.
    #[error("a host name or boot id is too long")]
    Text,
}

impl GuestSpec {
    /// How many nodes the guest has.
    pub fn nodes(&self) -> usize {
        self.hosts.len()
    }

    /// The nodes other than this one.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.hosts.len() as u8).map(NodeId).filter(|&node| node != self.me)
    }

    /// The address of `node`'s daemon as text; `node` itself if it is not one of the guest's.
    pub fn host_name(&self, node: NodeId) -> String {
        self.hosts.get(node.index()).map_or_else(|| node.to_string(), |host| host.address.to_string())
    }

    /// How guest memory is shared out among the pagers of each node: the same on all nodes.
    pub fn stripes(&self) -> Stripes {
        match self.nodes() {
            0 | 1 => Stripes::NONE,
            _ => {
                let bytes = u64::from(self.pagers.stripe_mib) << 20;
                Stripes::of_at_least(bytes, &self.layout, self.pagers.most)
            }
        }
    }

    /// Whether `node` runs on the same machine as this one, as far as is known.
    pub fn is_on_own_machine(&self, node: NodeId) -> bool {
        let boot_id = |node: NodeId| self.hosts.get(node.index()).map_or("", |host| host.boot_id.as_str());
        // An empty boot id could not be read: then they are no evidence.
        boot_id(node) == boot_id(self.me) && !boot_id(self.me).is_empty()
    }

    /// Whether this node and `node` are to try to share memory.
    pub fn may_share_memory(&self, node: NodeId) -> bool {
        self.links.transport != Transport::Tcp && self.is_on_own_machine(node)
    }

    /// Checks what decoding could not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        let nodes = self.hosts.len();
        if nodes == 0 || nodes > NODES_MAX {
            return Err(SpecError::Hosts(nodes));
        }
        let homes = self.layout.regions().iter().map(|region| region.home);
        let places = self.vcpus.iter().map(|vcpu| vcpu.node);
        if let Some(node) = homes.chain(places).chain([self.me]).find(|node| node.index() >= nodes) {
            return Err(SpecError::Node(node, nodes));
        }
        if self.vcpus.is_empty() || self.vcpus.len() > VCPUS_MAX {
            return Err(SpecError::Vcpus(self.vcpus.len()));
        }
        let mut used = BTreeSet::new();
        if let Some(vcpu) =
            self.vcpus.iter().find(|vcpu| vcpu.apic_id > APIC_ID_MAX || !used.insert(vcpu.apic_id))
        {
            return Err(SpecError::ApicId(vcpu.apic_id));
        }
        if self.cpuid.len() > KVM_MAX_CPUID_ENTRIES {
            return Err(SpecError::Cpuid(self.cpuid.len()));
        }
        if self.cmdline.len() >= CMDLINE_BYTES_MAX || self.cmdline.contains('\0') {
            return Err(SpecError::Cmdline(self.cmdline.len()));
        }
        if let Some(lease_us) = self.lease_us.filter(|&lease_us| lease_us > LEASE_US_MAX) {
            return Err(SpecError::Lease(lease_us));
        }
        if !(LOST_AFTER_MS_MIN..=LOST_AFTER_MS_MAX).contains(&self.links.lost_after_ms) {
            return Err(SpecError::LostAfter(self.links.lost_after_ms));
        }
        if self.links.busy_poll_us > BUSY_POLL_US_MAX {
            return Err(SpecError::BusyPoll(self.links.busy_poll_us));
        }
        if !(1..=SHARDS_MAX).contains(&self.pagers.most.into()) {
            return Err(SpecError::Pagers(self.pagers.most));
        }
        if !(STRIPE_MIB_MIN..=STRIPE_MIB_MAX).contains(&self.pagers.stripe_mib) {
            return Err(SpecError::Stripe(self.pagers.stripe_mib));
        }
        devices::check(&self.devices)?;
        let long = |text: &str| text.len() > 256;
        match self.hosts.iter().any(|host| long(&host.hostname) || long(&host.boot_id)) {
            true => Err(SpecError::Text),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tessera_dsm::{Gfn, Region};

    /// A valid guest of `nodes` nodes with one vCPU and 4 MiB on each.
    pub(crate) fn spec(nodes: u8) -> GuestSpec {
        let region =
            |node: u8| Region { start: Gfn(u64::from(node) * 1024), pages: 1024, home: NodeId(node) };
        GuestSpec {
            guest: GuestId(7 << 96),
            name: "g".parse().expect("name"),
            me: NodeId(0),
            hosts: (0..nodes)
                .map(|node| GuestHost {
                    address: format!("127.0.0.1:{}", 7070 + u16::from(node)).parse().expect("address"),
                    hostname: "h".into(),
                    boot_id: "b".into(),
                })
                .collect(),
            layout: Layout::new((0..nodes).map(region).collect()).expect("layout"),
            vcpus: (0..nodes).map(|node| VcpuPlace { apic_id: node.into(), node: NodeId(node) }).collect(),
            cpuid: vec![],
            tsc_khz: 1_000_000,
            cmdline: String::new(),
            lease_us: None,
            links: LinkSpec::default(),
            pagers: PagerSpec::default(),
            devices: vec![],
        }
    }

    #[test]
    fn every_field_out_of_range_is_refused() {
        assert_eq!(spec(2).check(), Ok(()));
        let wrong = |change: &dyn Fn(&mut GuestSpec)| {
            let mut spec = spec(2);
            change(&mut spec);
            spec.check().expect_err("out of range")
        };
        assert_eq!(wrong(&|s| s.hosts.clear()), SpecError::Hosts(0));
        assert_eq!(wrong(&|s| s.me = NodeId(2)), SpecError::Node(NodeId(2), 2));
        assert_eq!(wrong(&|s| s.vcpus[1].node = NodeId(200)), SpecError::Node(NodeId(200), 2));
        assert_eq!(wrong(&|s| s.hosts.truncate(1)), SpecError::Node(NodeId(1), 1));
        assert_eq!(wrong(&|s| s.vcpus.clear()), SpecError::Vcpus(0));
        assert_eq!(wrong(&|s| s.vcpus[1].apic_id = 0), SpecError::ApicId(0));
        assert_eq!(wrong(&|s| s.vcpus[1].apic_id = APIC_ID_MAX + 1), SpecError::ApicId(APIC_ID_MAX + 1));
        assert_eq!(wrong(&|s| s.cpuid = vec![Default::default(); 300]), SpecError::Cpuid(300));
        assert_eq!(wrong(&|s| s.cmdline = "x".repeat(2048)), SpecError::Cmdline(2048));
        assert_eq!(wrong(&|s| s.cmdline = "a\0b".into()), SpecError::Cmdline(3));
        assert_eq!(wrong(&|s| s.lease_us = Some(2_000_000)), SpecError::Lease(2_000_000));
        assert_eq!(wrong(&|s| s.links.lost_after_ms = 1999), SpecError::LostAfter(1999));
        assert_eq!(wrong(&|s| s.pagers.most = 0), SpecError::Pagers(0));
        assert_eq!(wrong(&|s| s.pagers.most = 9), SpecError::Pagers(9));
        assert_eq!(wrong(&|s| s.pagers.stripe_mib = 1), SpecError::Stripe(1));
        assert_eq!(wrong(&|s| s.hosts[0].boot_id = "x".repeat(257)), SpecError::Text);
    }

    #[test]
    fn a_guest_has_as_many_shards_as_pagers_if_it_has_memory_for_them_and_several_nodes() {
        let shards = |nodes, most, stripe_mib| {
            let pagers = PagerSpec { most, stripe_mib };
            GuestSpec { pagers, ..spec(nodes) }.stripes().count()
        };
        // 4 MiB of each node.
        assert_eq!((shards(3, 2, 2), shards(3, 8, 2), shards(3, 2, 64)), (2, 6, 1));
        assert_eq!(shards(1, 2, 2), 1, "nothing is tracked");
    }

    #[test]
    fn names_cannot_hold_what_a_terminal_or_a_path_would_read() {
        for name in ["", "a b", "a/b", "\x1b[2J", &"x".repeat(65)] {
            assert!(name.parse::<GuestName>().is_err(), "{name:?}");
        }
        assert!("web-1.prod_A".parse::<GuestName>().is_ok());
    }

    #[test]
    fn an_id_in_a_log_does_not_let_the_reader_join() {
        assert_eq!(GuestId(u128::MAX).to_string(), "ffffffff");
        assert_ne!(GuestId::random().expect("urandom"), GuestId::random().expect("urandom"));
    }
}
