//! The kernel's side of the bargain, checked with a real userfaultfd and plain threads in place of vCPUs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::ids::NodeId;
use crate::layout::{Layout, Region};
use crate::uffd::FaultKind;

/// No step of these tests takes longer, or it hangs.
const HANG: Duration = Duration::from_secs(20);
const GFN: Gfn = Gfn(600);

fn pages() -> GuestPages {
    let layout =
        Layout::new(vec![Region { start: Gfn(0), pages: 2048, home: NodeId(0) }]).expect("valid layout");
    GuestPages::new(NodeMemory::new(layout.clone()).expect("memory"), Arc::new(layout), None)
        .expect("a usable userfaultfd (run as root)")
}

/// One access to a word; gives back what it read.
type Touch = fn(&AtomicU64) -> u64;

/// A thread that does one access to a frame's first word and gives back what it read.
struct Toucher {
    done: Receiver<u64>,
    thread: JoinHandle<()>,
}

impl Toucher {
    fn start(pages: &GuestPages, gfn: Gfn, access: Touch) -> Self {
        let hva = pages.memory().guest_hva(gfn).expect("RAM");
        let memory = pages.memory.clone();
        let (tell, done) = channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: aligned, inside the guest mapping, which `memory` keeps mapped; only atomics are used on it.
            let word = unsafe { &*(hva as *const AtomicU64) };
            tell.send(access(word)).expect("the test waits");
            drop(memory);
        });
        Toucher { done, thread }
    }

    fn finish(self) -> u64 {
        let value = self.done.recv_timeout(HANG).expect("the access must go through");
        self.thread.join().expect("no panic");
        value
    }

    fn waits(&self) -> bool {
        self.done.recv_timeout(Duration::from_millis(30)).is_err()
    }
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::SeqCst)
}

fn store(word: &AtomicU64) -> u64 {
    word.swap(7, Ordering::SeqCst)
}

/// The next fault; hangs are failures.
fn next_fault(pages: &GuestPages) -> Fault {
    let (start, mut batch) = (Instant::now(), FaultBatch::default());
    loop {
        if let [fault, ..] = pages.read_faults(&mut batch).expect("read") {
            return *fault;
        }
        assert!(start.elapsed() < HANG, "no fault was reported");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn expect_fault(pages: &GuestPages, gfn: Gfn, kind: FaultKind) {
    let fault = next_fault(pages);
    assert_eq!((pages.memory().gfn_of_hva(fault.hva), fault.kind), (Some(gfn), kind));
}

fn page_of(value: u64) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    page[..8].copy_from_slice(&value.to_ne_bytes());
    page
}

fn first_word(pages: &GuestPages, gfn: Gfn) -> u64 {
    let mut page = [0; PAGE_BYTES];
    pages.memory().read_page(gfn, &mut page).expect("read");
    u64::from_ne_bytes(page[..8].try_into().expect("8 bytes"))
}

#[test]
fn a_missing_page_is_reported_with_its_access_and_an_installed_one_is_read() {
    let mut pages = pages();
    let reader = Toucher::start(&pages, GFN, load);
    expect_fault(&pages, GFN, FaultKind::MissingRead);
    assert!(reader.waits());
    pages.install(GFN, Bytes::Pages(&[page_of(42)]), Access::Read, Waiters::Wake).expect("install");
    assert_eq!(reader.finish(), 42);

    let writer = Toucher::start(&pages, Gfn(1), store);
    expect_fault(&pages, Gfn(1), FaultKind::MissingWrite);
    pages.install(Gfn(1), Bytes::Zero, Access::Write, Waiters::Wake).expect("install");
    assert_eq!(writer.finish(), 0);
    assert_eq!(first_word(&pages, Gfn(1)), 7);
}

#[test]
fn a_read_copy_lets_no_store_through_before_unprotect() {
    for bytes in [Bytes::Pages(&[page_of(5)]), Bytes::Zero] {
        let mut pages = pages();
        pages.install(GFN, bytes, Access::Read, Waiters::Wake).expect("install");
        let writer = Toucher::start(&pages, GFN, store);
        expect_fault(&pages, GFN, FaultKind::WriteProtected);
        assert!(writer.waits());
        pages.unprotect(GFN).expect("unprotect");
        let was = writer.finish();
        assert_eq!((was, first_word(&pages, GFN)), (if matches!(bytes, Bytes::Zero) { 0 } else { 5 }, 7));
    }
}

#[test]
fn install_without_wake_leaves_the_thread_waiting() {
    let mut pages = pages();
    let writer = Toucher::start(&pages, GFN, store);
    expect_fault(&pages, GFN, FaultKind::MissingWrite);
    pages.install(GFN, Bytes::Pages(&[page_of(3)]), Access::Read, Waiters::Leave).expect("install");
    assert!(writer.waits());
    pages.unprotect(GFN).expect("unprotect");
    assert_eq!(writer.finish(), 3);
}

#[test]
fn a_page_taken_away_is_missing_again_and_its_memory_is_free() {
    let mut pages = pages();
    pages.install(GFN, Bytes::Pages(&[page_of(9)]), Access::Write, Waiters::Wake).expect("install");
    assert_eq!(Toucher::start(&pages, GFN, store).finish(), 9);
    assert_eq!(pages.memory().resident_bytes(), PAGE_BYTES as u64);
    pages.protect(GFN).expect("protect");
    assert_eq!(first_word(&pages, GFN), 7);
    pages.discard(GFN).expect("discard");
    assert_eq!(pages.memory().resident_bytes(), 0);
    let reader = Toucher::start(&pages, GFN, load);
    expect_fault(&pages, GFN, FaultKind::MissingRead);
    pages.install(GFN, Bytes::Pages(&[page_of(11)]), Access::Read, Waiters::Wake).expect("install");
    assert_eq!(reader.finish(), 11);
}

#[test]
fn write_rights_that_come_back_after_a_protected_page_was_discarded_are_whole() {
    // Discarding a protected page leaves the kernel's protection marker behind: it must not outlive a new page.
    let mut pages = pages();
    for (bytes, was) in [(Bytes::Pages(&[page_of(21)]), 21), (Bytes::Zero, 0)] {
        pages.install(GFN, Bytes::Pages(&[page_of(1)]), Access::Read, Waiters::Wake).expect("install");
        assert_eq!(Toucher::start(&pages, GFN, load).finish(), 1);
        pages.discard(GFN).expect("discard");
        pages.install(GFN, bytes, Access::Write, Waiters::Wake).expect("install");
        assert_eq!(Toucher::start(&pages, GFN, store).finish(), was, "the store must not fault");
        pages.protect(GFN).expect("protect");
        pages.discard(GFN).expect("discard");
    }
}

fn run(first: u64, pages: u64) -> Run {
    let mut run = Run::from(Gfn(first));
    (first + 1..first + pages).for_each(|gfn| assert!(run.grow(Gfn(gfn))));
    run
}

#[test]
fn a_run_comes_and_goes_as_its_pages_would_one_by_one() {
    let mut pages = pages();
    let bytes = [page_of(1), page_of(2), page_of(3)];
    let readers: Vec<_> = (600..603).map(|gfn| Toucher::start(&pages, Gfn(gfn), load)).collect();
    pages.install(run(600, 3), Bytes::Pages(&bytes), Access::Read, Waiters::Wake).expect("install");
    assert_eq!(readers.into_iter().map(Toucher::finish).collect::<Vec<_>>(), [1, 2, 3]);
    pages.install(run(603, 2), Bytes::Zero, Access::Read, Waiters::Wake).expect("install");
    pages.install(run(605, 2), Bytes::Zero, Access::Write, Waiters::Wake).expect("install");
    assert_eq!(Toucher::start(&pages, Gfn(606), store).finish(), 0);
    while !pages.read_faults(&mut FaultBatch::default()).expect("read").is_empty() {}

    pages.protect(run(605, 2)).expect("protect");
    assert_eq!(first_word(&pages, Gfn(606)), 7);
    let writers: Vec<_> = [600, 604, 606].map(|gfn| Toucher::start(&pages, Gfn(gfn), store)).into();
    assert!(writers.iter().all(Toucher::waits), "the whole run is write-protected");
    assert_eq!(pages.memory().resident_bytes(), 7 * PAGE_BYTES as u64);
    pages.discard(run(600, 7)).expect("discard");
    assert_eq!((pages.memory().resident_bytes(), pages.discards()), (0, 7));
    pages.install(run(600, 7), Bytes::Zero, Access::Write, Waiters::Wake).expect("install");
    assert_eq!(writers.into_iter().map(Toucher::finish).collect::<Vec<_>>(), [0, 0, 0]);
}

#[test]
fn a_page_in_the_middle_of_a_run_that_nobody_granted_is_named() {
    let bytes = [page_of(1), page_of(2), page_of(3)];
    for (bytes, rights) in
        [(Bytes::Zero, Access::Read), (Bytes::Zero, Access::Write), (Bytes::Pages(&bytes), Access::Read)]
    {
        let mut pages = pages();
        pages.install(Gfn(602), Bytes::Zero, Access::Write, Waiters::Wake).expect("install");
        let refused = pages.install(run(600, 3), bytes, rights, Waiters::Wake);
        assert!(matches!(refused, Err(PagesError::Conflict(Gfn(602)))), "{refused:?}");
    }
}

#[test]
fn untouched_pages_of_a_run_read_as_zero_once_protected() {
    let mut pages = pages();
    pages.own_extent(GFN.extent()).expect("own");
    assert_eq!(Toucher::start(&pages, Gfn(601), store).finish(), 0);
    pages.split_extent(GFN.extent()).expect("split");
    pages.protect(run(600, 3)).expect("protect");
    let readers: Vec<_> = (600..603).map(|gfn| Toucher::start(&pages, Gfn(gfn), load)).collect();
    assert_eq!(readers.into_iter().map(Toucher::finish).collect::<Vec<_>>(), [0, 7, 0]);
}

#[test]
fn installing_over_a_page_is_refused() {
    let mut pages = pages();
    pages.install(GFN, Bytes::Zero, Access::Write, Waiters::Wake).expect("install");
    for bytes in [Bytes::Zero, Bytes::Pages(&[page_of(1)])] {
        for rights in [Access::Read, Access::Write] {
            let again = pages.install(GFN, bytes, rights, Waiters::Wake);
            assert!(matches!(again, Err(PagesError::Conflict(GFN))), "{again:?}");
        }
    }
}

#[test]
fn an_owned_extent_takes_no_faults_and_a_waiting_thread_goes_on() {
    let mut pages = pages();
    let waiting = Toucher::start(&pages, GFN, store);
    expect_fault(&pages, GFN, FaultKind::MissingWrite);
    pages.own_extent(GFN.extent()).expect("own");
    assert_eq!(waiting.finish(), 0);
    assert_eq!(Toucher::start(&pages, Gfn(601), store).finish(), 0);
    assert_eq!(first_word(&pages, GFN), 7);
    // The neighbours are tracked as before.
    let neighbour = Toucher::start(&pages, Gfn(511), load);
    expect_fault(&pages, Gfn(511), FaultKind::MissingRead);
    pages.install(Gfn(511), Bytes::Zero, Access::Read, Waiters::Wake).expect("install");
    assert_eq!(neighbour.finish(), 0);
}

#[test]
fn owning_an_extent_lifts_the_protection_of_its_copies() {
    let mut pages = pages();
    pages.install(GFN, Bytes::Zero, Access::Read, Waiters::Wake).expect("install");
    pages.own_extent(GFN.extent()).expect("own");
    assert_eq!(Toucher::start(&pages, GFN, store).finish(), 0);
}

#[test]
fn after_a_split_present_pages_stay_writable_and_an_absent_one_is_filled_by_wake() {
    let mut pages = pages();
    pages.own_extent(GFN.extent()).expect("own");
    assert_eq!(Toucher::start(&pages, GFN, store).finish(), 0);
    pages.split_extent(GFN.extent()).expect("split");
    assert_eq!(Toucher::start(&pages, GFN, store).finish(), 7, "a present page does not fault");
    // Absent: reported as missing, for loads and for stores; the core says that the rights are there.
    let reads: (Gfn, Touch, FaultKind, u64) = (Gfn(700), load, FaultKind::MissingRead, 0);
    for (gfn, access, kind, left) in [reads, (Gfn(701), store, FaultKind::MissingWrite, 7)] {
        let toucher = Toucher::start(&pages, gfn, access);
        expect_fault(&pages, gfn, kind);
        pages.wake(gfn, Access::Write).expect("wake");
        assert_eq!(toucher.finish(), 0);
        assert_eq!(Toucher::start(&pages, gfn, store).finish(), left);
    }
}

#[test]
fn wake_of_a_page_that_is_not_ours_creates_nothing() {
    let mut pages = pages();
    let reader = Toucher::start(&pages, GFN, load);
    expect_fault(&pages, GFN, FaultKind::MissingRead);
    pages.wake(GFN, Access::Write).expect("wake");
    expect_fault(&pages, GFN, FaultKind::MissingRead);
    assert_eq!(pages.memory().resident_bytes(), 0);
    pages.install(GFN, Bytes::Pages(&[page_of(2)]), Access::Read, Waiters::Wake).expect("install");
    assert_eq!(reader.finish(), 2);
}

#[test]
fn protecting_an_untouched_page_leaves_a_readable_page_that_no_store_gets_through() {
    let mut pages = pages();
    pages.own_extent(GFN.extent()).expect("own");
    pages.split_extent(GFN.extent()).expect("split");
    pages.protect(GFN).expect("protect");
    assert_eq!(Toucher::start(&pages, GFN, load).finish(), 0, "the load must not fault");
    let writer = Toucher::start(&pages, GFN, store);
    expect_fault(&pages, GFN, FaultKind::WriteProtected);
    assert!(writer.waits());
    pages.unprotect(GFN).expect("unprotect");
    assert_eq!(writer.finish(), 0);
}

#[test]
fn an_untouched_page_can_be_given_away_and_costs_no_memory() {
    let mut pages = pages();
    pages.own_extent(GFN.extent()).expect("own");
    pages.split_extent(GFN.extent()).expect("split");
    pages.protect(GFN).expect("protect");
    assert_eq!(first_word(&pages, GFN), 0);
    pages.discard(GFN).expect("discard");
    assert_eq!(pages.memory().resident_bytes(), 0);
    // It is not ours any more: a wake must not bring it back as a page of zeros.
    pages.wake(GFN, Access::Write).expect("wake");
    assert_eq!(pages.memory().resident_bytes(), 0);
}

#[test]
fn a_page_made_through_the_alias_is_covered_by_protection() {
    // A device borrows an untouched page for writing and creates it through the alias; the guest has no mapping of
    // it yet when it is protected.
    let mut pages = pages();
    pages.own_extent(GFN.extent()).expect("own");
    pages.split_extent(GFN.extent()).expect("split");
    pages.memory().alias_view().write_obj(77u64, GuestAddress(GFN.gpa())).expect("RAM");
    pages.protect(GFN).expect("protect");
    assert_eq!(Toucher::start(&pages, GFN, load).finish(), 77);
    let writer = Toucher::start(&pages, GFN, store);
    expect_fault(&pages, GFN, FaultKind::WriteProtected);
    assert!(writer.waits());
    pages.unprotect(GFN).expect("unprotect");
    assert_eq!(writer.finish(), 77);
}

#[test]
fn an_extent_can_be_owned_and_split_again_and_again() {
    let mut pages = pages();
    for round in 0..3 {
        pages.own_extent(GFN.extent()).expect("own");
        assert_eq!(Toucher::start(&pages, GFN, store).finish(), if round == 0 { 0 } else { 7 });
        pages.split_extent(GFN.extent()).expect("split");
        pages.protect(GFN).expect("protect");
    }
}

#[test]
fn an_owned_extent_that_stays_tracked_is_all_ours() {
    // As when the kernel has no mapping left for it: copies become writable, absent pages are filled by wake.
    let mut pages = pages();
    pages.install(GFN, Bytes::Zero, Access::Read, Waiters::Wake).expect("install");
    pages.own_tracked(GFN.extent()).expect("own");
    assert_eq!(Toucher::start(&pages, GFN, store).finish(), 0);
    let writer = Toucher::start(&pages, Gfn(700), store);
    expect_fault(&pages, Gfn(700), FaultKind::MissingWrite);
    pages.wake(Gfn(700), Access::Write).expect("wake");
    assert_eq!(writer.finish(), 0);
    pages.split_extent(GFN.extent()).expect("split");
    pages.protect(Gfn(701)).expect("protect");
    assert_eq!(Toucher::start(&pages, Gfn(701), load).finish(), 0);
}

#[test]
fn tracking_everything_keeps_owned_extents_ours() {
    let mut pages = pages();
    for extent in [0, 2, 3] {
        pages.own_extent(Extent(extent)).expect("own");
    }
    assert_eq!(Toucher::start(&pages, Gfn(5), store).finish(), 0);
    pages.track_all().expect("track");
    assert_eq!(Toucher::start(&pages, Gfn(5), store).finish(), 7);
    let reader = Toucher::start(&pages, Extent(3).first(), load);
    expect_fault(&pages, Extent(3).first(), FaultKind::MissingRead);
    pages.wake(Extent(3).first(), Access::Write).expect("wake");
    assert_eq!(reader.finish(), 0);
    // What was not ours still is not.
    let reader = Toucher::start(&pages, GFN, load);
    expect_fault(&pages, GFN, FaultKind::MissingRead);
    pages.wake(GFN, Access::Read).expect("wake");
    assert!(reader.waits());
    pages.install(GFN, Bytes::Zero, Access::Read, Waiters::Wake).expect("install");
    assert_eq!(reader.finish(), 0);
}

#[test]
fn a_write_protection_marker_on_an_absent_page_still_reports_it_as_missing() {
    // What `protect` relies on from Linux 5.19 on: the marker neither hides the fault nor makes the page writable.
    let mut pages = pages();
    let hva = pages.hva(GFN).expect("RAM");
    pages.uffd.write_protect(hva, PAGE_BYTES as u64, Protection::Protected).expect("protect");
    let reader = Toucher::start(&pages, GFN, load);
    expect_fault(&pages, GFN, FaultKind::MissingRead);
    pages.install(GFN, Bytes::Pages(&[page_of(8)]), Access::Read, Waiters::Wake).expect("install");
    assert_eq!(reader.finish(), 8);
}

#[test]
fn closing_releases_waiting_threads() {
    let pages = pages();
    let (reader, writer) = (Toucher::start(&pages, GFN, load), Toucher::start(&pages, Gfn(1), store));
    next_fault(&pages);
    drop(pages);
    assert_eq!(reader.finish(), 0);
    assert_eq!(writer.finish(), 0);
}
