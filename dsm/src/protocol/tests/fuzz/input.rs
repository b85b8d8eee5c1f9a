//! An input of the fuzzer: bytes that are read as decisions.

/// Longest input: some hundred decisions.
pub const BYTES_MAX: usize = 1024;

/// What is left of an input. Where it has ended, every number is 0.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Input(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// A number below `limit`, which is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn bytes<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        std::array::from_fn(|_| self.byte())
    }
}

/// As it is shown and typed.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a text made by [`hex`]; blanks are skipped.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let (pairs, odd) = digits.as_chunks::<2>();
    odd.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[test]
fn inputs_are_typed_as_they_are_shown() {
    assert_eq!(from_hex(&hex(&[0, 1, 0xfe])), Some(vec![0, 1, 0xfe]));
    assert_eq!(from_hex(" 0 0\n0 1 "), Some(vec![0, 1]));
    assert_eq!((from_hex("0"), from_hex("0x")), (None, None));
    let mut input = Input::new(&[7]);
    assert_eq!((input.below(4), input.is_empty(), input.byte()), (3, true, 0));
}
