//! Where the variables of each instance are.

use core::sync::atomic::{AtomicUsize, Ordering};

use tessera_litmus::placement::Placement;
use tessera_litmus::table::VARIABLES_MAX;

use crate::runtime::arena::{Page, PAGE_BYTES, STRIPES};
use crate::runtime::machine::Machine;
use crate::runtime::paging::Window;

/// Instances of a batch at most: one page holds the addresses of one variable's, eight pages those of all.
pub const INSTANCES_MAX: usize = 64;
/// In the window's table page, the words from here on are variables; the ones before lead to pages.
const TABLE_VARIABLES: usize = 256;
/// The top-level entry of the next window: none is used twice, so none need be flushed. Other tests use lower ones.
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(16);

/// The addresses of all variables of all instances, and what they held before the batch.
#[derive(Clone, Copy)]
pub struct Places {
    /// Instances of a batch.
    pub instances: usize,
    addresses: &'static [Page],
    lasts: &'static [Page],
}

impl Places {
    /// Takes pages for `instances` (at most [`INSTANCES_MAX`]) of each variable a test may have.
    pub fn new(machine: &Machine, placement: Placement, instances: usize) -> Self {
        let arena = &machine.arena;
        let pages = (VARIABLES_MAX * INSTANCES_MAX).div_ceil(512);
        let places = Self { instances, addresses: arena.pages(pages), lasts: arena.pages(pages) };
        let put = |variable: usize, instance: usize, address: u64| {
            let index = places.index(variable, instance);
            places.addresses[index / 512].word(index % 512).store(address, Ordering::Relaxed);
        };
        match placement {
            Placement::Apart => {
                for instance in 0..instances {
                    let pages = arena.pages_of(instance % STRIPES, VARIABLES_MAX);
                    (0..VARIABLES_MAX).for_each(|variable| {
                        put(variable, instance, pages[variable].address() + offset(instance));
                    });
                }
            }
            Placement::Homes => {
                for variable in 0..VARIABLES_MAX {
                    // 0 5 2 7 4 1 6 3: for two, three and four nodes the first two have different homes.
                    let pages = arena.pages_of(variable * 5 % STRIPES, instances);
                    (0..instances).for_each(|i| put(variable, i, pages[i].address() + offset(i)));
                }
            }
            Placement::Together => {
                for instance in 0..instances {
                    let page = arena.page().address() + 64 * (instance as u64);
                    (0..VARIABLES_MAX).for_each(|v| put(v, instance, page + 8 * v as u64));
                }
            }
            Placement::Straddle => {
                for variable in 0..VARIABLES_MAX {
                    let pages = arena.pages(instances + 1);
                    (0..instances).for_each(|i| put(variable, i, pages[i + 1].address() - 4));
                }
            }
            Placement::Table => by_tables(machine, instances, put),
        }
        places
    }

    /// Where a variable of an instance is.
    pub fn address(&self, variable: usize, instance: usize) -> u64 {
        let index = self.index(variable, instance);
        self.addresses[index / 512].word(index % 512).load(Ordering::Relaxed)
    }

    /// What it held before the batch. Thread 0's own business.
    pub fn last(&self, variable: usize, instance: usize) -> u64 {
        let index = self.index(variable, instance);
        self.lasts[index / 512].word(index % 512).load(Ordering::Relaxed)
    }

    /// Notes what it holds after the batch.
    pub fn set_last(&self, variable: usize, instance: usize, word: u64) {
        let index = self.index(variable, instance);
        self.lasts[index / 512].word(index % 512).store(word, Ordering::Relaxed);
    }

    fn index(&self, variable: usize, instance: usize) -> usize {
        (variable % VARIABLES_MAX) * INSTANCES_MAX + instance % INSTANCES_MAX
    }
}

/// Not always the same word of a page.
fn offset(instance: usize) -> u64 {
    64 * (instance as u64 * 7 % 64)
}

/// The first variable is reached through a page table in which the second one lies: a word of an entry that is not
/// present. Eight instances share a window. Other variables have pages of their own.
fn by_tables(machine: &Machine, instances: usize, put: impl Fn(usize, usize, u64)) {
    let arena = &machine.arena;
    let next = || Window::new(arena, NEXT_SLOT.fetch_add(1, Ordering::Relaxed) % 256);
    let mut window = next();
    for instance in 0..instances {
        let entry = instance % 8;
        if instance > 0 && entry == 0 {
            window = next();
        }
        window.map(entry, arena.page());
        put(0, instance, window.start + entry as u64 * PAGE_BYTES + offset(instance));
        put(1, instance, window.table.address() + 8 * (TABLE_VARIABLES + 8 * entry) as u64);
        (2..VARIABLES_MAX).for_each(|v| put(v, instance, arena.page().address() + offset(instance)));
    }
}
