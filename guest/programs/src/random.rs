//! Pseudo-random numbers: splitmix64 (Steele, Lea, Flood 2014).

/// A generator; equal seeds give equal sequences.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from any seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in -0.5..0.5, all of whose 53 bits are random.
    pub fn centred(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    }
}

/// The generator's output function: a good hash of one word.
pub const fn mix(word: u64) -> u64 {
    let mut z = word;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        assert_eq!(Random::new(1_234_567).word(), 6_457_827_717_110_365_317);
    }

    #[test]
    fn centred_numbers_are_centred() {
        let mut random = Random::new(3);
        let sum: f64 =
            (0..10_000).map(|_| random.centred()).inspect(|x| assert!((-0.5..0.5).contains(x))).sum();
        assert!(sum.abs() < 200.0);
    }
}
