//! Tells how far things are: a spinner on a terminal, plain lines elsewhere. Always on standard error, so that
//! standard output is only what was asked for.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One step that takes a while. Dropped without [`Step::done`], it vanishes from the terminal.
pub struct Step {
    bar: Option<ProgressBar>,
    what: String,
    started: Instant,
}

impl Step {
    /// Starts a step, and says so.
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let started = Instant::now();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            eprintln!("{what} ...");
            return Self { bar: None, what, started };
        }
        bar.set_style(ProgressStyle::default_spinner());
        bar.set_message(what.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar), what, started }
    }

    /// Says what the step is at.
    pub fn note(&self, at: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {at}", self.what)),
            None => eprintln!("{}: {at} ...", self.what),
        }
    }

    /// Ends the step with a line that stays.
    pub fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!("{}: {result} ({seconds:.1} s)", self.what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
