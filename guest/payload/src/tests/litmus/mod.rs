//! Litmus tests: encoded by the crate `tessera-litmus`, many instances of each at a time.
//!
//! The tests are those that are linked in, or those of a table that came as the initramfs. Each is run in each
//! placement of its variables ([`places`]), its threads on CPUs in every way that there is. A batch: every thread brings
//! pages into some state, a barrier, every thread runs its code on each instance
//! ([`play`]), a barrier, thread 0 judges ([`judge`]). Outcomes that x86-TSO allows are counted; any other one, and any
//! value that cannot have been there, fails the test.
//!
//! Words: `shapes=SB,MP` (default: all tests), `place=apart,homes,together,straddle,table` (default: all),
//! `rounds=` instances of each test in each placement (2000), `ms=` how long each may take at most (0: no limit),
//! `instances=` of a batch, up to 64 (12), `gap=` cycles from instance
//! to instance (0: found out), `seed=`.

mod judge;
mod places;
mod play;

use payload_core::assignment;
use payload_core::cmdline::Cmdline;
use payload_core::line::Line;
use tessera_litmus::outcome::HISTOGRAM;
use tessera_litmus::placement::Placement;
use tessera_litmus::table::{Record, Table};

use crate::runtime::boot::ZeroPage;
use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;
use crate::runtime::{clock, console};
use judge::Tally;
use places::{Places, INSTANCES_MAX};
use play::{Run, Stage, Turn};

/// The named tests of `tessera-litmus`.
static LINKED_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/litmus.table"));

/// What the command line asks for.
struct Wishes {
    cmdline: Cmdline<'static>,
    cpus: usize,
    rounds: u64,
    ms: u64,
}

/// Runs the chosen tests in the chosen placements.
pub fn litmus(machine: &Machine) -> bool {
    let table = table(machine);
    let wishes = Wishes {
        cmdline: machine.cmdline,
        cpus: machine.cpus(),
        rounds: machine.number("rounds", 2000),
        ms: machine.number("ms", 0),
    };
    wishes.check();
    let instances = machine.number("instances", 12).clamp(1, INSTANCES_MAX as u64) as usize;
    let stage = Stage::new(machine);
    let tally = Tally::new(machine, table.records().map(|record| record.allowed()).max().unwrap_or(0));
    let (mut passed, mut ran) = (true, 0);
    for placement in Placement::ALL.into_iter().filter(|placement| wishes.names("place", placement.name())) {
        let places = Places::new(machine, placement, instances);
        for record in table.records() {
            if wishes.wants(&record, placement) {
                passed &= one(machine, &wishes, Run { record, places, stage, tally }, placement);
                ran += 1;
            }
        }
    }
    if ran == 0 {
        fail(Status::Usage, format_args!("no litmus test can be run as asked on {} CPUs", machine.cpus()));
    }
    passed
}

fn table(machine: &Machine) -> Table<'static> {
    let module = ZeroPage::new(machine.block(0).boot_params()).initramfs_bytes();
    let bytes = if module.is_empty() { LINKED_IN } else { module };
    Table::new(bytes).unwrap_or_else(|error| fail(Status::Usage, format_args!("{error}")))
}

impl Wishes {
    /// Whether a word of the command line names `name` in its list, or is not there.
    fn names(&self, key: &str, name: &str) -> bool {
        self.cmdline.word(key).is_none_or(|list| list.split(',').any(|word| word == name))
    }

    /// Words that name something unknown end the run.
    fn check(&self) {
        let unknown = |key: &'static str, is_known: fn(&str) -> bool| {
            let words = self.cmdline.word(key).into_iter().flat_map(|list| list.split(','));
            if let Some(bad) = words.into_iter().find(|word| !is_known(word)) {
                fail(Status::Usage, format_args!("{key}={bad}: there is no such thing"));
            }
        };
        unknown("place", |word| Placement::named(word).is_some());
    }

    fn wants(&self, record: &Record<'_>, placement: Placement) -> bool {
        // A placement that is about two variables shows nothing new of a test with one.
        let enough = match placement {
            Placement::Homes | Placement::Table | Placement::Together => record.variables() > 1,
            Placement::Apart | Placement::Straddle => true,
        };
        let fits = record.alignment == placement.alignment() && record.threads().len() <= self.cpus;
        self.names("shapes", record.name) && enough && fits
    }
}

/// One test in one placement.
fn one(machine: &Machine, wishes: &Wishes, run: Run, placement: Placement) -> bool {
    let start = clock::now();
    let threads = run.record.threads().len();
    let batches = wishes.rounds.div_ceil(run.places.instances as u64).max(1);
    let ways = assignment::count(threads, machine.cpus());
    let turns = ways.min(batches);
    run.tally.clear(&run.record);
    run.stage.begin();
    let end = start.saturating_add(clock::us(wishes.ms * 1000));
    for number in 0..turns {
        if wishes.ms > 0 && number > 0 && clock::now() > end {
            break;
        }
        let turn = Turn {
            // Where there are more ways than turns, they are not always the same ones.
            assignment: assignment::nth(number + run.stage.shift(ways), threads, machine.cpus()),
            batches: batches / turns + u64::from(number < batches % turns),
            until: start.saturating_add(clock::us(wishes.ms * 1000) / turns * (number + 1)),
            limited: wishes.ms > 0,
        };
        machine.run(move |cpu| play::take_part(&run, &turn, cpu));
    }
    report(&run, placement, clock::ms_since(start))
}

fn report(run: &Run, placement: Placement, ms: u64) -> bool {
    let (record, tally) = (&run.record, &run.tally);
    let digits = record.digits();
    console::print(format_args!("{HISTOGRAM} {} {}", record.name, placement.name()));
    tally.outcomes(record, |outcome, count| {
        console::print(format_args!(" {}:{count}", outcome.text(digits)));
    });
    let corrupt = tally.corrupt();
    if corrupt > 0 {
        console::print(format_args!(" corrupt:{corrupt}"));
    }
    console::print(format_args!("\n"));
    let summary = tally.summary(record);
    let ok = summary.forbidden == 0 && corrupt == 0;
    let mut line = Line::new("litmus");
    line.text("test", record.name).text("place", placement.name());
    line.number("rounds", summary.rounds);
    line.number("forbidden", summary.forbidden).number("corrupt", corrupt).number("asked", summary.asked);
    line.number("seen", summary.seen).number("allowed", record.allowed() as u64);
    line.number("changes", summary.changes).number("gap", run.stage.gap()).number("lead", run.stage.lead());
    if corrupt > 0 {
        let (instance, word) = tally.sample();
        line.number("corrupt_instance", instance).number("corrupt_word", word);
    }
    line.thousandths("seconds", ms);
    console::print(format_args!("{}", line.end(ok)));
    ok
}
