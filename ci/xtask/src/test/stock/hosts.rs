//! The hosts that scenarios run on.

use anyhow::Result;

use crate::builds;
use crate::cluster::{Cluster, ClusterSpec, GuestFile, Kind};
use crate::images::{self, GuestFiles};
use crate::kernels::Series;
use crate::lab::LabSpec;

/// Memory of the guests, in MiB, unless their size is what is tested.
pub const GUEST_MIB: u64 = 384;
/// Memory of the small hosts, in MiB: less than the large guest has.
const SMALL_HOST_MIB: u64 = 672;

/// The name of the bare-metal payload among the files of the hosts.
pub const PAYLOAD: &str = "payload";

/// Which hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Two.
    Pair,
    /// Two with less memory than the guest.
    SmallPair,
    /// Three.
    Trio,
}

/// The files that guests are started with.
pub struct Files {
    guest: GuestFiles,
    payload: GuestFile,
}

impl Files {
    /// Gets or builds them.
    ///
    /// # Errors
    /// When one cannot be had.
    pub fn get() -> Result<Self> {
        let guest = images::guest_files(&[Series::Bookworm, Series::Backports])?;
        Ok(Self { guest, payload: (PAYLOAD.to_owned(), builds::payloads()?.join(builds::PAYLOAD)) })
    }
}

impl Hosts {
    /// Starts them.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn start(self, files: &Files) -> Result<Cluster> {
        let (hosts, memory_mib) = match self {
            Self::Pair => (2, GUEST_MIB + LabSpec::HOST_OWN_MIB),
            Self::SmallPair => (2, SMALL_HOST_MIB),
            Self::Trio => (3, GUEST_MIB + LabSpec::HOST_OWN_MIB),
        };
        let lab = LabSpec { hosts, memory_mib, ..LabSpec::default() };
        let mut all = files.guest.files();
        all.push(files.payload.clone());
        Cluster::start(ClusterSpec { kind: Kind::Auto, lab, files: all })
    }
}
