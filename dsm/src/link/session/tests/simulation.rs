//! Random traffic over links that break at random bytes.
//!
//! Every case has a seed; a failure prints it. `TESSERA_SEED=n` runs that case alone.

use super::super::Epoch;
use super::pair::{Fault, Pair, Step, ACCEPTS, DIALS};
use crate::link::tests::Random;

/// Cases of the test.
const CASES: u64 = 4000;
/// Steps of a case before the links stay whole.
const STEPS: usize = 300;
/// More steps than this to settle: it never will.
const SETTLE_MAX: usize = 20_000;

/// What a case is like, drawn from its seed.
struct Weather {
    /// One step in so many cuts a link.
    cuts: usize,
    /// One attempt to dial in so many gets through in time.
    luck: usize,
    /// Most filler of a frame.
    filler: usize,
    /// How the sides share the frames: one in so many is of the acceptor.
    share: usize,
}

/// The steps that are worth a try now.
fn draw(pair: &Pair, random: &mut Random, weather: &Weather) -> Step {
    let side = random.below(2);
    match random.below(12) {
        0 | 1 => {
            let side = usize::from(random.below(weather.share) == 0);
            Step::Queue { side, filler: random.below(weather.filler) }
        }
        2..=4 => Step::Send { side, most: [1, 7, 40, 100, 5000, 1 << 20][random.below(6)] },
        5..=7 => Step::Take { side },
        8 => Step::Confirm { side },
        9 if random.below(weather.cuts) == 0 => match pair.wires.get(random.below(pair.wires.len().max(1))) {
            Some(wire) => Step::Cut { epoch: wire.epoch },
            None => Step::Confirm { side },
        },
        9 | 10 => mend(pair, random, weather).unwrap_or(Step::Take { side }),
        _ if pair.wire(side).is_some_and(|wire| wire.cut) => Step::Notice { side },
        _ => Step::Send { side, most: 1 << 20 },
    }
}

/// A step towards a new link.
fn mend(pair: &Pair, random: &mut Random, weather: &Weather) -> Option<Step> {
    let any = |random: &mut Random| pair.attempts.get(random.below(pair.attempts.len().max(1)));
    match random.below(4) {
        0 => any(random).map(|attempt| Step::Arrive { epoch: attempt.epoch }),
        1 => pair.current.map(|_| Step::Connected),
        2 => {
            let known = pair.ends[DIALS].session.epoch().0 as usize;
            Some(Step::ConnectedLate { epoch: Epoch(random.below(known + 1) as u32) })
        }
        _ => {
            let wanted = pair.ends[DIALS].session.redial().is_some();
            let again = pair.current.is_none() || random.below(weather.luck) == 0;
            (wanted && again).then_some(Step::Dial)
        }
    }
}

/// A step that brings things to an end, when nothing breaks any more.
fn settle(pair: &Pair, random: &mut Random) -> Step {
    let side = random.below(2);
    match random.below(7) {
        0 | 1 => Step::Send { side, most: 1 << 20 },
        2 | 3 => Step::Take { side },
        4 => Step::Confirm { side },
        5 => match pair.wire(side) {
            Some(wire) if wire.cut => Step::Notice { side },
            _ => Step::Take { side },
        },
        _ => {
            let weather = Weather { cuts: 1, luck: 20, filler: 1, share: 1 };
            mend(pair, random, &weather).unwrap_or(Step::Take { side })
        }
    }
}

/// What became of a case.
#[derive(Debug, Default)]
pub struct Summary {
    pub frames: u64,
    pub links: u64,
}

/// One case.
///
/// # Errors
/// What went wrong, and at which step.
pub fn simulate(seed: u64, fault: Option<Fault>) -> Result<Summary, String> {
    let mut random = Random::seeded(seed);
    let weather = Weather {
        cuts: 1 + random.below(6),
        luck: 1 + random.below(6),
        filler: [1, 50, 6000][random.below(3)],
        share: [1, 2, 2, 1000][random.below(4)],
    };
    // Every fourth case crosses the point where the low halves of positions wrap.
    let mut pair = match seed % 4 {
        0 => Pair::starting_at((1 << 32) - random.below(200_000) as u64),
        _ => Pair::new(),
    };
    for number in 0..STEPS {
        let step = draw(&pair, &mut random, &weather);
        pair.now = number as u64;
        pair.step(step, fault).map_err(|why| format!("step {number}, {step:?}: {why}"))?;
    }
    for number in STEPS..STEPS + SETTLE_MAX {
        if pair.is_quiet() {
            pair.check_settled()?;
            let frames = pair.ends.iter().map(|end| u64::from(end.got)).sum();
            return Ok(Summary { frames, links: pair.ends[ACCEPTS].session.epoch().0.into() });
        }
        let step = settle(&pair, &mut random);
        pair.now = number as u64;
        pair.step(step, fault).map_err(|why| format!("settling, {step:?}: {why}"))?;
    }
    Err("it does not settle".into())
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order() {
    let seeds = match std::env::var("TESSERA_SEED").ok() {
        Some(text) => {
            let seed = text.parse().expect("a number");
            seed..=seed
        }
        None => 1..=CASES,
    };
    let (first, last) = (*seeds.start(), *seeds.end());
    println!("TESSERA_SEED={first} to {last}");
    let mut all = Summary::default();
    for seed in seeds {
        match simulate(seed, None) {
            Ok(summary) => {
                all.frames += summary.frames;
                all.links += summary.links;
            }
            Err(why) => panic!("TESSERA_SEED={seed}: {why}"),
        }
    }
    println!("{all:?}");
    assert!(
        first == last || all.frames > 10 * CASES && all.links > 4 * CASES,
        "too little happened: {all:?}"
    );
}
