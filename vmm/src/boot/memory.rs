//! Where RAM is and which node's it is.

use std::ops::Range;

use tessera_abi::mmio;
use tessera_dsm::ids::{Gfn, NodeId, EXTENT_BYTES, EXTENT_PAGES, NODES_MAX};
use tessera_dsm::layout::{Layout, Region};

use super::BootError;

/// A layout of `total_bytes` of RAM, shared as evenly as whole 2 MiB extents can be over `nodes` nodes, in order;
/// the first nodes get the extents that are left over.
///
/// # Errors
/// [`BootError::Shares`] when `total_bytes` is not a multiple of 2 MiB, a node would get nothing, or there are
/// more than [`NODES_MAX`] nodes.
pub fn layout_for(total_bytes: u64, nodes: usize) -> Result<Layout, BootError> {
    let extents = total_bytes / EXTENT_BYTES;
    if nodes == 0 || nodes > NODES_MAX || !total_bytes.is_multiple_of(EXTENT_BYTES) || extents < nodes as u64
    {
        return Err(BootError::Shares { bytes: total_bytes, nodes });
    }
    let (each, over) = (extents / nodes as u64, extents % nodes as u64);
    let shares: Vec<u64> =
        (0..nodes as u64).map(|node| (each + u64::from(node < over)) * EXTENT_BYTES).collect();
    layout_with_shares(&shares)
}

/// A layout in which node n has `shares[n]` bytes of RAM. RAM goes from 0 to 3 GiB and on from 4 GiB; a share
/// that meets the hole is two regions.
///
/// # Errors
/// [`BootError::Shares`] when a share is zero or not a multiple of 2 MiB, or there are none or too many.
pub fn layout_with_shares(shares: &[u64]) -> Result<Layout, BootError> {
    let total = shares.iter().try_fold(0u64, |sum, &share| sum.checked_add(share));
    let fault = || BootError::Shares { bytes: total.unwrap_or(u64::MAX), nodes: shares.len() };
    let bad_share = shares.iter().any(|&share| share == 0 || share % EXTENT_BYTES != 0);
    // 2^52: no x86 processor addresses more.
    if bad_share || shares.is_empty() || shares.len() > NODES_MAX || total.is_none_or(|total| total > 1 << 52)
    {
        return Err(fault());
    }
    let (hole, hole_end) = (Gfn::containing(mmio::HOLE).0, Gfn::containing(mmio::HOLE_END).0);
    let mut regions = Vec::with_capacity(shares.len() + 1);
    let mut next = 0;
    for (node, &share) in (0u8..).zip(shares) {
        let mut left = share / EXTENT_BYTES * EXTENT_PAGES;
        while left > 0 {
            let pages = if next < hole { left.min(hole - next) } else { left };
            regions.push(Region { start: Gfn(next), pages, home: NodeId(node) });
            left -= pages;
            next += pages;
            if next == hole {
                next = hole_end;
            }
        }
    }
    Ok(Layout::new(regions)?)
}

/// The window above RAM in which PCI devices decode memory. The same on all nodes, since their layout is.
pub fn pci_window(layout: &Layout) -> Range<u64> {
    let ram_end = layout.regions().last().map_or(0, |region| region.end().gpa());
    let start = ram_end.max(mmio::HOLE_END).next_multiple_of(mmio::PCI_HIGH_ALIGNMENT);
    start..start + mmio::PCI_HIGH_BYTES
}

/// The end of the RAM that begins at address 0 and is all node 0's: where a loader may write.
pub(super) fn low_end(layout: &Layout) -> Result<u64, BootError> {
    match layout.regions().first() {
        Some(region) if region.start == Gfn(0) && region.home == NodeId::HOME => {
            Ok(region.end().gpa().min(mmio::HOLE))
        }
        _ => Err(BootError::NoLowMemory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn shares_are_even_and_whole() {
        let layout = layout_for(1024 * MIB, 3).unwrap();
        let shares: Vec<u64> = layout.regions().iter().map(|region| region.pages / EXTENT_PAGES).collect();
        assert_eq!(shares, [171, 171, 170]);
        assert_eq!(layout.bytes(), 1024 * MIB);
    }

    #[test]
    fn ram_avoids_the_hole_below_4_gib() {
        let layout = layout_for(8 * GIB, 2).unwrap();
        let regions: Vec<(u64, u64, u8)> =
            layout.regions().iter().map(|r| (r.start.gpa() / GIB, r.end().gpa() / GIB, r.home.0)).collect();
        assert_eq!(regions, [(0, 3, 0), (4, 5, 0), (5, 9, 1)]);
        assert_eq!(low_end(&layout).unwrap(), 3 * GIB);
        // A share that ends at the hole leaves none of itself behind it.
        let exact = layout_with_shares(&[3 * GIB, GIB]).unwrap();
        assert_eq!(exact.regions().len(), 2);
        assert_eq!(exact.regions()[1].start.gpa(), 4 * GIB);
    }

    #[test]
    fn the_pci_window_is_above_all_ram_and_above_4_gib() {
        for (bytes, start) in [(2 * MIB, 4), (3 * GIB, 4), (4 * GIB, 5), (4 * GIB + 2 * MIB, 6)] {
            let window = pci_window(&layout_for(bytes, 1).unwrap());
            assert_eq!(
                (window.start, window.end),
                (start * GIB, (start + 1) * GIB),
                "{bytes:#x} bytes of RAM"
            );
        }
    }

    #[test]
    fn impossible_shares_are_refused() {
        for (bytes, nodes) in
            [(0, 1), (MIB, 1), (3 * MIB, 1), (2 * MIB, 2), (GIB, 0), (GIB, 33), (u64::MAX - MIB, 1)]
        {
            assert!(matches!(layout_for(bytes, nodes), Err(BootError::Shares { .. })), "{bytes} {nodes}");
        }
        assert!(layout_with_shares(&[2 * MIB, 0]).is_err());
        assert!(layout_with_shares(&[1 << 63, 1 << 63]).is_err());
    }
}
