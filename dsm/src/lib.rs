//! Page ownership between hosts.
//!
//! - [`protocol`]: who may read and write which page, as a pure state machine: events and time in, actions
//!   out. No clock, socket, thread or guest memory in it.
//! - [`release`]: shared segments with eager release consistency, likewise pure.
//! - [`wire`]: the protocol's messages as bytes.
//! - [`stripes`]: how memory is shared out among the pagers of a node.
//! - [`memory`]: this node's guest memory: one memfd, mapped once for the guest and once for us.
//! - [`pager`]: the thread that drives the protocol from userfaultfd and from its links.
//! - [`link`]: how frames travel between nodes.

pub mod ids;
pub mod layout;
pub mod link;
#[cfg(test)]
mod liveness;
pub mod memory;
pub mod pager;
pub mod protocol;
pub mod release;
pub mod stripes;
pub mod uffd;
pub mod wire;

pub use ids::{
    Extent, Gfn, NodeId, NodeSet, Shard, EXTENT_BYTES, EXTENT_PAGES, NODES_MAX, PAGE_BYTES, SHARDS_MAX,
};
pub use layout::{Layout, LayoutError, Region};
pub use stripes::Stripes;
