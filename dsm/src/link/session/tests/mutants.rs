//! Proof that the checks would see a mistake: sessions with one mistake each, all of which must be caught.
//!
//! A mistake is built in from outside, around a step. The product contains no trace of it.

use super::super::{Session, State};
use super::model::{explore, Bounds};
use super::pair::{Fault, Pair, Step, ACCEPTS, DIALS, FRAME_BYTES};
use super::simulation::simulate;

fn nothing_before(_: &Step, _: &mut Pair) {}

fn nothing_after(_: &Step, _: &Pair, _: &mut Pair) {}

/// Changes the session of each side that goes on over a new link in this step; the second one is as it was before.
fn on_resume(before: &Pair, after: &mut Pair, change: fn(&mut Session, &Session)) {
    for side in [DIALS, ACCEPTS] {
        let (old, new) = (&before.ends[side].session, &mut after.ends[side].session);
        let answered = old.state == State::Greeting && new.state == State::Open;
        if answered || side == ACCEPTS && new.epoch != old.epoch {
            change(new, old);
        }
    }
}

/// The session of the side that the step is of, after and before.
fn of_step<'a>(step: &Step, before: &'a Pair, after: &'a mut Pair) -> (&'a mut Session, &'a Session) {
    let (Step::Queue { side, .. } | Step::Send { side, .. } | Step::Take { side }) = *step else {
        return (&mut after.ends[DIALS].session, &before.ends[DIALS].session);
    };
    (&mut after.ends[side].session, &before.ends[side].session)
}

fn goes_on_where_the_old_link_was(_: &Step, before: &Pair, after: &mut Pair) {
    on_resume(before, after, |new, old| new.sent = old.sent.max(new.sent));
}

fn sends_all_that_is_unconfirmed_again(_: &Step, before: &Pair, after: &mut Pair) {
    on_resume(before, after, |new, old| {
        new.unconfirmed = old.unconfirmed.clone();
        new.sent = new.unconfirmed.start();
    });
}

fn forgets_what_was_sent(step: &Step, _: &Pair, after: &mut Pair) {
    if let Step::Send { side, .. } = *step {
        let session = &mut after.ends[side].session;
        session.unconfirmed.release(session.sent);
    }
}

fn forgets_more_than_is_confirmed(step: &Step, before: &Pair, after: &mut Pair) {
    if matches!(step, Step::Take { .. }) {
        let (new, old) = of_step(step, before, after);
        if new.unconfirmed.start() > old.unconfirmed.start() {
            new.unconfirmed.release(new.unconfirmed.start() + FRAME_BYTES as u64);
        }
    }
}

fn forgets_what_was_queued_without_a_link(step: &Step, before: &Pair, after: &mut Pair) {
    if matches!(step, Step::Queue { .. }) {
        let (new, old) = of_step(step, before, after);
        if old.state == State::Down {
            new.unconfirmed.truncate(old.unconfirmed.end());
        }
    }
}

fn forgets_what_was_not_sent_when_the_link_breaks(step: &Step, _: &Pair, after: &mut Pair) {
    if let Step::Notice { side } = *step {
        let session = &mut after.ends[side].session;
        session.unconfirmed.truncate(session.sent);
    }
}

fn accepts_any_epoch(step: &Step, pair: &mut Pair) {
    if let Step::Arrive { epoch } = *step {
        let session = &mut pair.ends[ACCEPTS].session;
        session.epoch.0 = session.epoch.0.min(epoch.0 - 1);
    }
}

fn dialler_takes_an_attempt_that_was_given_up(step: &Step, pair: &mut Pair) {
    if let Step::ConnectedLate { .. } = *step {
        let session = &mut pair.ends[DIALS].session;
        (session.epoch.0, session.state) = (0, State::Down);
    }
}

fn says_the_same_epoch_again(step: &Step, _: &Pair, after: &mut Pair) {
    if matches!(step, Step::Arrive { .. }) {
        let answer = after.ends[ACCEPTS].session.preamble.as_mut();
        answer.into_iter().for_each(|(bytes, _)| bytes[4] = bytes[4].saturating_sub(1));
    }
}

fn dialler_says_it_has_what_was_sent_to_it(step: &Step, _: &Pair, after: &mut Pair) {
    let sent = after.ends[ACCEPTS].session.unconfirmed.end();
    if let (Step::Dial, Some(attempt)) = (step, after.attempts.last_mut()) {
        attempt.received = sent;
    }
}

fn acceptor_says_it_has_what_was_sent_to_it(step: &Step, before: &Pair, after: &mut Pair) {
    let sent = before.ends[DIALS].session.unconfirmed.end();
    if let (Step::Arrive { .. }, Some((bytes, _))) = (step, &mut after.ends[ACCEPTS].session.preamble) {
        bytes[8..16].copy_from_slice(&sent.to_le_bytes());
    }
}

fn dialler_says_what_it_confirmed_last(step: &Step, _: &Pair, after: &mut Pair) {
    let told = after.ends[DIALS].session.told;
    if let (Step::Dial, Some(attempt)) = (step, after.attempts.last_mut()) {
        attempt.received = told;
    }
}

/// The next frame is taken wherever it belongs.
fn positions_are_not_looked_at(step: &Step, pair: &mut Pair) {
    let Step::Take { side } = *step else { return };
    let Some(unit) = pair.unit(side).filter(|_| pair.ends[side].session.state == State::Open) else { return };
    let session = &mut pair.ends[side].session;
    let seq = unit[2..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    session.received =
        session.received.wrapping_add_signed(i64::from(seq.wrapping_sub(session.received as u32) as i32));
}

fn what_came_over_the_old_link_is_taken_too(step: &Step, before: &Pair, after: &mut Pair) {
    let Step::Arrive { .. } = step else { return };
    if after.ends[ACCEPTS].wire == before.ends[ACCEPTS].wire {
        return;
    }
    let old = before.wire(ACCEPTS).map(|wire| wire.bytes[ACCEPTS].clone()).unwrap_or_default();
    if let Some(wire) = after.wire_mut(ACCEPTS) {
        old.into_iter().rev().for_each(|byte| wire.bytes[ACCEPTS].push_front(byte));
    }
}

fn dialler_sends_before_it_is_answered(step: &Step, _: &Pair, after: &mut Pair) {
    if matches!(step, Step::Connected) {
        let session = &mut after.ends[DIALS].session;
        session.sent = session.unconfirmed.start();
        // It still waits for the answer, but does not wait to send.
        let bytes = session.unconfirmed.parts(session.sent).concat();
        if let Some(wire) = after.wire_mut(DIALS) {
            wire.bytes[ACCEPTS].extend(bytes);
        }
    }
}

fn acceptor_does_not_answer(step: &Step, _: &Pair, after: &mut Pair) {
    if matches!(step, Step::Arrive { .. }) {
        after.ends[ACCEPTS].session.preamble = None;
    }
}

fn the_rest_of_an_answer_goes_over_the_next_link(step: &Step, before: &Pair, after: &mut Pair) {
    let old = before.ends[ACCEPTS].session.preamble;
    let new = &mut after.ends[ACCEPTS].session.preamble;
    if let (Step::Arrive { .. }, Some((_, sent)), Some((_, from))) = (step, old, new) {
        *from = sent;
    }
}

fn nothing_is_confirmed_by_itself(step: &Step, pair: &mut Pair) {
    if let Step::Take { side } | Step::Confirm { side } = *step {
        let session = &mut pair.ends[side].session;
        session.told = session.received;
    }
}

fn dialler_does_not_show_that_the_link_works(_: &Step, before: &Pair, after: &mut Pair) {
    on_resume(before, after, |new, _| new.confirm = false);
}

fn more_is_confirmed_than_came(step: &Step, pair: &mut Pair) {
    if let Step::Queue { side, .. } = *step {
        pair.ends[side].session.received += FRAME_BYTES as u64;
    }
}

fn and_taken_back(step: &Step, before: &Pair, after: &mut Pair) {
    if matches!(step, Step::Queue { .. }) {
        let (new, old) = of_step(step, before, after);
        new.received = old.received - FRAME_BYTES as u64;
        new.told = new.received;
    }
}

fn a_frame_is_counted_twice(step: &Step, before: &Pair, after: &mut Pair) {
    if matches!(step, Step::Take { .. }) {
        let (new, old) = of_step(step, before, after);
        new.received += new.received - old.received;
    }
}

fn a_frame_is_not_counted(step: &Step, before: &Pair, after: &mut Pair) {
    if matches!(step, Step::Take { .. }) {
        let (new, old) = of_step(step, before, after);
        new.received = old.received;
        new.told = new.told.min(new.received);
    }
}

fn a_link_counts_as_good_when_it_is_dialled(step: &Step, _: &Pair, after: &mut Pair) {
    if matches!(step, Step::Connected) {
        after.ends[DIALS].session.trouble = None;
    }
}

fn a_link_counts_as_good_when_it_is_accepted(step: &Step, before: &Pair, after: &mut Pair) {
    if matches!(step, Step::Arrive { .. })
        && before.ends[ACCEPTS].session.epoch != after.ends[ACCEPTS].session.epoch
    {
        after.ends[ACCEPTS].session.trouble = None;
    }
}

fn each_break_begins_the_trouble_anew(step: &Step, _: &Pair, after: &mut Pair) {
    if let Step::Notice { side } = *step {
        after.ends[side].session.trouble = Some(after.now);
    }
}

fn trouble_never_ends(step: &Step, before: &Pair, after: &mut Pair) {
    if matches!(step, Step::Take { .. }) {
        let (new, old) = of_step(step, before, after);
        new.trouble = old.trouble;
    }
}

fn high_halves_of_positions_are_forgotten(_: &Step, _: &Pair, after: &mut Pair) {
    for end in &mut after.ends {
        let session = &mut end.session;
        session.received &= 0xffff_ffff;
        session.told = session.told.min(session.received);
    }
}

const fn before(name: &'static str, before: fn(&Step, &mut Pair)) -> Fault {
    Fault { name, before, after: nothing_after }
}

const fn after(name: &'static str, after: fn(&Step, &Pair, &mut Pair)) -> Fault {
    Fault { name, before: nothing_before, after }
}

/// The mistake, where nobody looks at positions: what comes of it must be seen in the frames themselves.
const fn unseen(name: &'static str, after: fn(&Step, &Pair, &mut Pair)) -> Fault {
    Fault { name, before: positions_are_not_looked_at, after }
}

/// The mistakes.
const MUTANTS: &[Fault] = &[
    after("goes on where the old link was", goes_on_where_the_old_link_was),
    unseen("the same, and positions are not looked at", goes_on_where_the_old_link_was),
    after("sends all that is unconfirmed again", sends_all_that_is_unconfirmed_again),
    unseen("the same, and positions are not looked at", sends_all_that_is_unconfirmed_again),
    after("forgets what was sent", forgets_what_was_sent),
    after("forgets more than is confirmed", forgets_more_than_is_confirmed),
    after("forgets what was queued without a link", forgets_what_was_queued_without_a_link),
    after("forgets what was not sent when the link breaks", forgets_what_was_not_sent_when_the_link_breaks),
    before("accepts any epoch", accepts_any_epoch),
    before("the dialler takes an attempt that was given up", dialler_takes_an_attempt_that_was_given_up),
    after("answers with another epoch", says_the_same_epoch_again),
    after("the dialler says it has what was sent to it", dialler_says_it_has_what_was_sent_to_it),
    after("the acceptor says it has what was sent to it", acceptor_says_it_has_what_was_sent_to_it),
    after("the dialler says what it confirmed last", dialler_says_what_it_confirmed_last),
    unseen("the same, and positions are not looked at", dialler_says_what_it_confirmed_last),
    after("what came over the old link is taken too", what_came_over_the_old_link_is_taken_too),
    unseen("the same, and positions are not looked at", what_came_over_the_old_link_is_taken_too),
    after("the dialler sends before it is answered", dialler_sends_before_it_is_answered),
    after("the acceptor does not answer", acceptor_does_not_answer),
    after("the rest of an answer goes over the next link", the_rest_of_an_answer_goes_over_the_next_link),
    before("nothing is confirmed by itself", nothing_is_confirmed_by_itself),
    after("the dialler does not show that the link works", dialler_does_not_show_that_the_link_works),
    Fault { name: "more is confirmed than came", before: more_is_confirmed_than_came, after: and_taken_back },
    after("a frame is counted twice", a_frame_is_counted_twice),
    after("a frame is not counted", a_frame_is_not_counted),
    after("a link counts as good when it is dialled", a_link_counts_as_good_when_it_is_dialled),
    after("a link counts as good when it is accepted", a_link_counts_as_good_when_it_is_accepted),
    after("each break begins the trouble anew", each_break_begins_the_trouble_anew),
    after("trouble never ends", trouble_never_ends),
    after("high halves of positions are forgotten", high_halves_of_positions_are_forgotten),
];

/// Who caught a mutant.
fn caught_by(mutant: Fault) -> Vec<&'static str> {
    let mut catchers = vec![];
    let small = [
        Bounds { frames: [1, 1], cuts: 1, attempts: 1, halves: true },
        Bounds { frames: [1, 1], cuts: 2, attempts: 2, halves: false },
        Bounds { frames: [1, 0], cuts: 2, attempts: 3, halves: false },
    ];
    if small.into_iter().any(|bounds| explore(mutant.name, bounds, Some(mutant)).is_some()) {
        catchers.push("model");
    }
    if (1..=200).any(|seed| simulate(seed, Some(mutant)).is_err()) {
        catchers.push("simulator");
    }
    catchers
}

#[test]
fn every_mutant_is_caught() {
    let mut survivors = vec![];
    for &mutant in MUTANTS {
        let catchers = caught_by(mutant);
        println!("{}: {}", mutant.name, catchers.join(", "));
        if catchers.is_empty() {
            survivors.push(mutant.name);
        }
    }
    println!("{} mutants", MUTANTS.len());
    assert!(survivors.is_empty(), "{} of {} survive: {survivors:#?}", survivors.len(), MUTANTS.len());
}

#[test]
fn without_a_mistake_nothing_is_caught() {
    assert!(caught_by(before("none", nothing_before)).is_empty());
    // And that nobody looks at positions changes nothing as long as they are right.
    assert!(caught_by(before("positions are not looked at", positions_are_not_looked_at)).is_empty());
}
