use std::sync::Arc;

use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::{
    AskAhead, BorrowError, PageSet, Pager, PagerConfig, PagerFailure, Tracking, Wanted,
};
use tessera_dsm::protocol::{Access, HabitPolicy, LeasePolicy};
use tessera_dsm::{Gfn, Layout, NodeId, Region, Stripes};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::fake::FakeRam;
use super::{GuestRam, NodeRam};

fn pages(ranges: &[(u64, u64, Access)]) -> PageSet {
    PageSet::covering(ranges.iter().map(|&(gpa, len, access)| Wanted { gpa, len, access })).unwrap()
}

#[test]
fn a_loan_shows_its_own_pages_and_nothing_else() {
    let ram = FakeRam::new();
    let ram: &dyn GuestRam = &*ram;
    let loan = ram.borrow(pages(&[(0x1000, 0x1800, Access::Write), (0x5000, 1, Access::Read)])).unwrap();
    loan.write_slice(&[7; 0x2000], GuestAddress(0x1000)).unwrap();
    assert_eq!(loan.read_obj::<u16>(GuestAddress(0x2ffe)).unwrap(), 0x0707);
    assert_eq!(loan.read_obj::<u64>(GuestAddress(0x5ff8)).unwrap(), 0);
    for (at, len) in [(0xfff, 2), (0x2fff, 2), (0x3000, 1), (0x5fff, 2), (FakeRam::HIGH, 1), (u64::MAX, 2)] {
        assert!(loan.read_slice(&mut vec![0; len], GuestAddress(at)).is_err(), "{at:#x}");
        assert!(!loan.check_range(GuestAddress(at), len, Permissions::Read), "{at:#x}");
    }
    assert!(loan.write_slice(&[1], GuestAddress(0x5000)).is_err(), "lent for reading");
    assert!(loan.check_range(GuestAddress(0x5000), 0x1000, Permissions::Read));
    assert!(!loan.check_range(GuestAddress(0x5000), 1, Permissions::Write));
}

#[test]
fn what_is_not_ram_is_not_lent() {
    let ram = FakeRam::new();
    let not_ram = (&*ram as &dyn GuestRam).borrow(pages(&[(FakeRam::BYTES - 1, 2, Access::Read)])).map(drop);
    assert!(matches!(not_ram, Err(BorrowError::NotRam { gpa: FakeRam::BYTES, .. })));
    ram.stop();
    let stopped = (&*ram as &dyn GuestRam).borrow(pages(&[(0, 1, Access::Read)])).map(drop);
    assert_eq!(stopped, Err(BorrowError::Stopped));
}

#[test]
fn a_nodes_memory_is_lent_once_it_has_a_pager() {
    let region = Region { start: Gfn(0), pages: 512, home: NodeId(0) };
    let memory = NodeMemory::new(Layout::new(vec![region]).unwrap()).unwrap();
    let node_ram = NodeRam::new(&memory);
    let ram: &dyn GuestRam = &node_ram;
    let wanted = pages(&[(0x1000, 8, Access::Write)]);
    assert_eq!(ram.borrow(wanted.clone()).map(drop), Err(BorrowError::Stopped));
    let config = PagerConfig {
        me: NodeId(0),
        nodes: 1,
        preloaded: vec![],
        lease: LeasePolicy::default(),
        habits: HabitPolicy::OFF,
        stripes: Stripes::NONE,
        tracking: Tracking::Off,
        ahead: AskAhead::Off,
    };
    let ignored: Box<dyn Fn(PagerFailure) + Send + Sync> = Box::new(|_| {});
    let pager = Pager::start(config, memory.clone(), vec![], ignored).unwrap();
    node_ram.serve(Arc::new(pager));
    let loan = ram.borrow(wanted).unwrap();
    loan.write_obj(5u64, GuestAddress(0x1000)).unwrap();
    drop(loan);
    assert_eq!(memory.alias_view().read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 5);
    let beyond = ram.borrow(pages(&[(512 << 12, 1, Access::Read)])).map(drop);
    assert!(matches!(beyond, Err(BorrowError::NotRam { .. })));
}
