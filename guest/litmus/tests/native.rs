//! The machine code of tests, run here, thread after thread: it must do what the program says.

use rustix::mm::{mmap_anonymous, mprotect, munmap, MapFlags, MprotectFlags, ProtFlags};
use tessera_litmus::encode::encode;
use tessera_litmus::outcome::Outcome;
use tessera_litmus::shapes;
use tessera_litmus::table::{Record, Table, View, ARG_ADDRESSES, ARG_BASE, ARG_LOG, ARG_STEP, ARG_WORDS};
use tessera_litmus::test::{Alignment, Op, Part, Test, THREAD_LOADS_MAX};
use tessera_litmus::value::{base, halves, meaning, STEP};

const CODE_BYTES: usize = 4096;

/// A piece of code that can be called.
struct Code(*mut std::ffi::c_void);

impl Code {
    fn new(bytes: &[u8]) -> Code {
        assert!(bytes.len() <= CODE_BYTES);
        // SAFETY: a fresh mapping of its own; it is written before it is made executable, and nothing else uses it.
        unsafe {
            let at = mmap_anonymous(
                std::ptr::null_mut(),
                CODE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
            .expect("memory");
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast(), bytes.len());
            mprotect(at, CODE_BYTES, MprotectFlags::READ | MprotectFlags::EXEC).expect("executable");
            Code(at)
        }
    }

    fn call(&self, arguments: &[u64; ARG_WORDS]) {
        // SAFETY: the encoder's code is a function of this type; it touches its stack, the variables and the log that
        // the arguments lead to, which the caller owns.
        unsafe {
            let function: extern "sysv64" fn(*const u64) = std::mem::transmute(self.0);
            function(arguments.as_ptr());
        }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own.
        unsafe { munmap(self.0, CODE_BYTES).expect("mapped") };
    }
}

/// Runs all threads of a record in this order, each to its end, and gives the outcome.
fn run(record: &Record<'_>, order: &[usize], batch: u32, memory: &mut [u64; 8]) -> Outcome {
    let before = *memory;
    let mut logs = [[0u64; THREAD_LOADS_MAX]; 4];
    for &thread in order {
        let code = &record.threads()[thread];
        let mut arguments = [0; ARG_WORDS];
        arguments[ARG_BASE] = base(batch);
        arguments[ARG_STEP] = STEP;
        arguments[ARG_LOG] = logs[thread].as_mut_ptr() as u64;
        for (word, &variable) in arguments[ARG_ADDRESSES..].iter_mut().zip(code.variables) {
            *word = &raw mut memory[usize::from(variable)] as u64;
        }
        Code::new(code.code).call(&arguments);
    }
    record.sources().fold(Outcome::default(), |outcome, source| {
        let word = source.load.map_or(memory[source.variable], |(thread, load)| logs[thread][load]);
        let ((low, high), (last_low, last_high)) = (halves(word), halves(before[source.variable]));
        let digit = match source.view {
            View::Whole => {
                assert_eq!(low, high, "{}: torn", record.name);
                meaning(low, batch, last_low)
            }
            View::Low => meaning(low, batch, last_low),
            View::High => meaning(high, batch, last_high),
            View::HighAlone => meaning(low, batch, last_high),
        };
        outcome.push(digit.unwrap_or_else(|| panic!("{}: {word:#x} in batch {batch}", record.name)))
    })
}

/// What a program does if memory is nothing but memory.
fn interpreted(test: &Test, order: &[usize]) -> Outcome {
    let mut memory = [[0u8; 2]; 8];
    let mut loads = vec![Vec::new(); test.threads().len()];
    for &thread in order {
        for op in &test.threads()[thread] {
            let Some(variable) = op.variable() else { continue };
            let cell = &mut memory[usize::from(variable.0)];
            if op.loaded().is_some() {
                loads[thread].push(*cell);
            }
            let (part, value) = match *op {
                Op::Store { part, value, .. } => (part, value),
                Op::Exchange { value, .. } => (Part::Whole, value),
                _ => continue,
            };
            cell[0] = if part == Part::High { cell[0] } else { value };
            cell[1] = if part == Part::Low { cell[1] } else { value };
        }
    }
    test.digits(Alignment::Aligned).iter().fold(Outcome::default(), |outcome, digit| {
        let cell = match digit.of {
            tessera_litmus::test::Observed::Load { thread, load } => {
                loads[usize::from(thread)][usize::from(load)]
            }
            tessera_litmus::test::Observed::Final(variable) => memory[usize::from(variable.0)],
        };
        outcome.push(cell[usize::from(digit.part == Part::High)])
    })
}

#[test]
fn the_code_of_every_named_test_does_what_its_program_says() {
    let tests = shapes::all();
    let bytes = encode(&tests).unwrap();
    let table = Table::new(&bytes).unwrap();
    let mut batch = 0;
    for record in table.records().filter(|record| record.alignment == Alignment::Aligned) {
        let test = tests.iter().find(|test| test.name == record.name).unwrap();
        let mut memory = [0; 8];
        let mut order: Vec<usize> = (0..test.threads().len()).collect();
        for _ in 0..2 * order.len() {
            batch += 1;
            let seen = run(&record, &order, batch, &mut memory);
            assert_eq!(seen, interpreted(test, &order), "{} in order {order:?}", test.name);
            assert!(record.find(seen).is_some(), "{} in order {order:?}: {seen:?}", test.name);
            order.rotate_left(1);
            if batch % 2 == 0 {
                order.reverse();
            }
        }
    }
}
