//! Threads as straight-line x86-64 machine code: nothing stands between the accesses but what the test says.
//!
//! The code is a function of one argument (System V ABI, RDI): the address of words that hold
//!
//! | word | what |
//! |---|---|
//! | [`ARG_BASE`] | the batch's [`base`](crate::value::base) |
//! | [`ARG_STEP`] | [`STEP`](crate::value::STEP) |
//! | [`ARG_LOG`] | where to store what the loads gave, a word each |
//! | [`ARG_ADDRESSES`] and on | the addresses of the thread's variables, in the order of their first use |
//!
//! All of these are in registers before the first access, and what is loaded stays in registers until after the last.

use crate::table::{ARG_ADDRESSES, ARG_BASE, ARG_LOG, ARG_STEP};
use crate::test::{Fence, Op, Part, Test, THREAD_LOADS_MAX, THREAD_VARIABLES_MAX};

/// A general register, by its number in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Register(u8);

const RAX: Register = Register(0);
const RBX: Register = Register(3);
const RBP: Register = Register(5);
const RDI: Register = Register(7);
const BASE: Register = Register(10);
const STEP: Register = Register(11);
/// Where the arguments are at first, and what the loads gave in the end.
const LOG: Register = RDI;
/// RSI RDX RCX R8 R9.
const ADDRESSES: [Register; THREAD_VARIABLES_MAX] =
    [Register(6), Register(2), Register(1), Register(8), Register(9)];
/// RBX RBP R12 R13 R14 R15: the caller's, so they are saved.
const LOADS: [Register; THREAD_LOADS_MAX] =
    [RBX, RBP, Register(12), Register(13), Register(14), Register(15)];

/// Bytes of an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Width {
    Four,
    Eight,
}

/// The machine code of one thread.
pub fn thread(test: &Test, thread: usize) -> Vec<u8> {
    let variables = test.thread_variables(thread);
    let loads = &LOADS[..test.loads(thread)];
    let mut code = Assembler::default();
    loads.iter().for_each(|&register| code.push(register));
    for (&register, word) in ADDRESSES[..variables.len()].iter().zip(ARG_ADDRESSES..) {
        code.load(register, RDI, 8 * word as u8, Width::Eight);
    }
    code.load(BASE, RDI, 8 * ARG_BASE as u8, Width::Eight);
    code.load(STEP, RDI, 8 * ARG_STEP as u8, Width::Eight);
    code.load(LOG, RDI, 8 * ARG_LOG as u8, Width::Eight);
    let mut free = loads.iter();
    for op in &test.threads()[thread] {
        let place = |op: &Op| variables.iter().position(|&known| Some(known) == op.variable());
        let address = ADDRESSES[place(op).unwrap_or(0)];
        // (A test has been checked: there is a register for each load.)
        let mut next = || free.next().copied().unwrap_or(RAX);
        match *op {
            Op::Store { part, value, .. } => {
                code.value(RAX, value);
                code.store(RAX, address, offset(part), width(part));
            }
            Op::Load { part, .. } => code.load(next(), address, offset(part), width(part)),
            Op::Fence(Fence::MFence) => code.mfence(),
            Op::Fence(Fence::Locked) => code.locked_or_on_stack(),
            Op::Exchange { value, .. } => {
                let register = next();
                code.value(register, value);
                code.exchange(register, address);
            }
            Op::LockedLoad { .. } => {
                let register = next();
                code.zero(register);
                code.exchange_add(register, address);
            }
        }
    }
    for (&register, word) in loads.iter().zip(0u8..) {
        code.store(register, LOG, 8 * word, Width::Eight);
    }
    loads.iter().rev().for_each(|&register| code.pop(register));
    code.ret();
    code.bytes
}

const fn offset(part: Part) -> u8 {
    match part {
        Part::Whole | Part::Low => 0,
        Part::High => 4,
    }
}

const fn width(part: Part) -> Width {
    match part {
        Part::Whole => Width::Eight,
        Part::Low | Part::High => Width::Four,
    }
}

/// The few instructions that are needed (Intel SDM volume 2).
#[derive(Default)]
struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    /// Prefix, opcode and operands of an instruction with a register and memory at `base` + `offset`. The base is none
    /// of RSP and R12, which are encoded otherwise.
    fn memory(&mut self, width: Width, opcode: &[u8], register: Register, base: Register, offset: u8) {
        let wide = if width == Width::Eight { 8 } else { 0 };
        self.bytes.push(0x40 | wide | (register.0 >> 3) << 2 | base.0 >> 3);
        self.bytes.extend_from_slice(opcode);
        self.bytes.push(0x40 | (register.0 & 7) << 3 | base.0 & 7);
        self.bytes.push(offset);
    }

    fn load(&mut self, to: Register, base: Register, offset: u8, width: Width) {
        self.memory(width, &[0x8b], to, base, offset);
    }

    fn store(&mut self, from: Register, base: Register, offset: u8, width: Width) {
        self.memory(width, &[0x89], from, base, offset);
    }

    fn exchange(&mut self, register: Register, base: Register) {
        self.memory(Width::Eight, &[0x87], register, base, 0);
    }

    fn exchange_add(&mut self, register: Register, base: Register) {
        self.bytes.push(0xf0);
        self.memory(Width::Eight, &[0x0f, 0xc1], register, base, 0);
    }

    /// The word of a value: the base and as many steps, by additions that touch no memory and no flags.
    fn value(&mut self, to: Register, value: u8) {
        let mut from = BASE;
        for scale in (0..4).filter(|bit| value >> bit & 1 == 1) {
            // LEA to, [from + STEP * 2^scale]: with a displacement, because R13 as a base needs one.
            self.bytes.push(0x48 | (to.0 >> 3) << 2 | (STEP.0 >> 3) << 1 | from.0 >> 3);
            self.bytes.extend([0x8d, 0x44 | (to.0 & 7) << 3, scale << 6 | (STEP.0 & 7) << 3 | from.0 & 7, 0]);
            from = to;
        }
    }

    fn zero(&mut self, register: Register) {
        // XOR of the 32-bit register with itself; it stands in both operands.
        let (high, low) = (register.0 >> 3, register.0 & 7);
        self.bytes.extend([0x40 | high << 2 | high, 0x31, 0xc0 | low << 3 | low]);
    }

    fn mfence(&mut self) {
        self.bytes.extend([0x0f, 0xae, 0xf0]);
    }

    /// LOCK OR qword [RSP], 0.
    fn locked_or_on_stack(&mut self) {
        self.bytes.extend([0xf0, 0x48, 0x83, 0x0c, 0x24, 0x00]);
    }

    fn push(&mut self, register: Register) {
        self.bytes.extend([0x40 | register.0 >> 3, 0x50 | register.0 & 7]);
    }

    fn pop(&mut self, register: Register) {
        self.bytes.extend([0x40 | register.0 >> 3, 0x58 | register.0 & 7]);
    }

    fn ret(&mut self) {
        self.bytes.push(0xc3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_thread_is_what_an_assembler_makes_of_it() {
        let test: Test = "x=1; mfence; r0=y | y=1 | exists 0:r0=0".parse().unwrap();
        let expected: &[&[u8]] = &[
            &[0x40, 0x53],                // push rbx
            &[0x48, 0x8b, 0x77, 24],      // mov rsi, [rdi + 24]
            &[0x48, 0x8b, 0x57, 32],      // mov rdx, [rdi + 32]
            &[0x4c, 0x8b, 0x57, 0],       // mov r10, [rdi]
            &[0x4c, 0x8b, 0x5f, 8],       // mov r11, [rdi + 8]
            &[0x48, 0x8b, 0x7f, 16],      // mov rdi, [rdi + 16]
            &[0x4b, 0x8d, 0x44, 0x1a, 0], // lea rax, [r10 + r11]
            &[0x48, 0x89, 0x46, 0],       // mov [rsi], rax
            &[0x0f, 0xae, 0xf0],          // mfence
            &[0x48, 0x8b, 0x5a, 0],       // mov rbx, [rdx]
            &[0x48, 0x89, 0x5f, 0],       // mov [rdi], rbx
            &[0x40, 0x5b],                // pop rbx
            &[0xc3],                      // ret
        ];
        assert_eq!(thread(&test, 0), expected.concat());
    }
}
