//! Everything that a CPU holds: filled with random values, kept for a while, compared.

use core::sync::atomic::AtomicU64;

use payload_core::random::Random;

use super::gates;

core::arch::global_asm!(include_str!("registers.s"));

unsafe extern "C" {
    fn hold_registers(hold: *mut Hold, waits: u32);
}

/// General registers in the order of `registers.s`: RAX RBX RCX RDX RSI RDI RBP R8..R15, then RFLAGS.
const NAMES: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rflags",
];
const RCX: usize = 2;
const RSI: usize = 4;
const RDI: usize = 5;
const R11: usize = 10;
const FLAGS: usize = 15;
/// Carry, direction and ID: flags that ring 3 sets and that nothing in between changes.
const HELD_FLAGS: u64 = 1 | 1 << 10 | 1 << 21;

/// One side of a [`Hold`]: values of all registers.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Values {
    general: [u64; 16],
    vector: [[u64; 4]; 16],
    x87: [u64; 8],
    mxcsr: u32,
    fcw: u16,
    /// Given: whether there is AVX. Found: the stack pointer before.
    avx_or_stack: u64,
    /// Found: the stack pointer after.
    stack_after: u64,
}

/// Values to hold and values found, as `registers.s` lays them out.
#[repr(C, align(64))]
pub struct Hold {
    given: Values,
    found: Values,
}

const _: () = assert!(core::mem::size_of::<Values>() == 768);
const _: () = assert!(core::mem::offset_of!(Values, avx_or_stack) == 712);

/// How time passes while the registers are held.
#[derive(Clone, Copy)]
pub enum Passing<'a> {
    /// The CPU counts down in ring 3.
    Counting(u64),
    /// The CPU halts in ring 0 until an interrupt changes the word from the value.
    Halted(&'a AtomicU64, u64),
}

impl Hold {
    /// Random values for all registers; `avx`: the upper halves of the vector registers too.
    pub fn random(random: &mut Random, avx: bool) -> Self {
        let rounding = random.below(4) as u32;
        let values = Values {
            general: core::array::from_fn(|_| random.word()),
            vector: core::array::from_fn(|_| core::array::from_fn(|_| random.word())),
            // Whole numbers pass through the 80-bit registers unchanged.
            x87: core::array::from_fn(|_| (random.below(1 << 50) as f64).to_bits()),
            mxcsr: 0x1f80 | rounding << 13 | 1 << 15,
            fcw: 0x037f | (rounding as u16) << 10,
            avx_or_stack: u64::from(avx),
            stack_after: 0,
        };
        Self { given: values, found: values }
    }

    /// Loads all registers, lets time pass, stores them again. Gives the name of the first register that was
    /// changed.
    pub fn pass(&mut self, passing: Passing<'_>) -> Option<&'static str> {
        let general = &mut self.given.general;
        general[FLAGS] = HELD_FLAGS | 2;
        let waits = match passing {
            Passing::Counting(rounds) => {
                general[RCX] = rounds.max(1);
                0
            }
            Passing::Halted(word, seen) => {
                (general[RDI], general[RSI], general[R11]) = (word.as_ptr() as u64, seen, gates::WAIT);
                1
            }
        };
        self.found = self.given;
        // SAFETY: the function keeps to the ABI's preserved registers and writes only behind the pointer; a
        // word to wait on outlives the call.
        unsafe { hold_registers(self, waits) };
        self.changed(waits == 1)
    }

    fn changed(&self, waited: bool) -> Option<&'static str> {
        let (given, found) = (&self.given, &self.found);
        for (index, name) in NAMES.iter().enumerate() {
            let (wanted, mask) = match index {
                RCX if !waited => (0, u64::MAX),
                R11 if waited => (0, 0),
                FLAGS => (given.general[FLAGS], HELD_FLAGS),
                _ => (given.general[index], u64::MAX),
            };
            if (found.general[index] ^ wanted) & mask != 0 {
                return Some(name);
            }
        }
        let width = if given.avx_or_stack == 0 { 2 } else { 4 };
        let vectors = given.vector.iter().zip(&found.vector).all(|(a, b)| a[..width] == b[..width]);
        match () {
            () if !vectors => Some("vector"),
            () if given.x87 != found.x87 => Some("x87"),
            // The low six bits are exceptions that have happened.
            () if (given.mxcsr ^ found.mxcsr) & !0x3f != 0 => Some("mxcsr"),
            () if given.fcw != found.fcw => Some("fcw"),
            () if found.avx_or_stack != found.stack_after => Some("rsp"),
            () => None,
        }
    }
}
