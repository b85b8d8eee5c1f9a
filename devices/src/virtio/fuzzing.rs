//! Random tests that can be replayed. What is tried is an entry of a corpus, first as it is, then changed at random; each case
//! has a seed, which a failure prints. `TESSERA_SEED=n` tries that case alone, `TESSERA_CASES=n` tries so many.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

/// Most changes to an entry.
const CHANGES_MAX: u64 = 8;
/// Most bytes that are added at the end.
const ADDED_MAX: u64 = 64;

/// Something worth trying, and what it is called.
pub(crate) type Entry = (&'static str, Vec<u8>);

/// Pseudo-random numbers: splitmix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// Numbers at which programs go wrong, and others.
    fn odd_word(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(20),
            1 => u64::MAX - self.below(3),
            2 => (1 << self.below(64)) - self.below(2),
            3 => 512 * self.below(5000),
            _ => self.word(),
        }
    }
}

/// The bytes with some changes.
fn changed(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(CHANGES_MAX) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(10) {
            _ if bytes.is_empty() => bytes.push(random.word() as u8),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.word() as u8,
            2 => bytes.truncate(at),
            3 => bytes.extend((0..random.below(ADDED_MAX)).map(|_| random.word() as u8)),
            4 => {
                let from = random.below(bytes.len() as u64) as usize;
                let count = random.below((bytes.len() - from.max(at)) as u64 + 1) as usize;
                bytes.copy_within(from..from + count, at);
            }
            _ => {
                // A number of the size of a field, where a field may begin.
                let size = 2usize << random.below(3);
                let at = at - at % size;
                let value = random.odd_word().to_le_bytes();
                bytes[at..].iter_mut().take(size).zip(value).for_each(|(to, from)| *to = from);
            }
        }
    }
    bytes
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Tries the whole corpus, then so many changed entries of it.
pub(crate) fn fuzz(cases: u64, corpus: &[Entry], mut attempt: impl FnMut(&[u8])) {
    let mut named = |name: &str, bytes: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| attempt(bytes))) {
            eprintln!("{name}: {bytes:02x?}");
            resume_unwind(panic);
        }
    };
    let seeds = match number("TESSERA_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            corpus.iter().for_each(|(name, bytes)| named(name, bytes));
            0..number("TESSERA_CASES").unwrap_or(cases)
        }
    };
    println!("TESSERA_SEED={seeds:?}");
    for seed in seeds {
        let mut random = Random::new(seed);
        let (name, bytes) = &corpus[random.below(corpus.len() as u64) as usize];
        named(&format!("TESSERA_SEED={seed}, from {name:?}"), &changed(bytes, &mut random));
    }
}

#[test]
fn a_seed_gives_the_same_case_again_and_others_give_others() {
    let case = |seed| changed(&[7; 100], &mut Random::new(seed));
    assert_eq!(case(3), case(3));
    assert!((0..50).filter(|&seed| case(seed) != [7; 100]).count() > 45);
    assert!((0..100).any(|seed| !changed(&[], &mut Random::new(seed)).is_empty()));
}
