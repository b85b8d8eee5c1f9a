//! One pager thread, as the handle of the whole set sees it.

use std::io;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::driver::Driver;
use super::{Bell, BorrowError, Command, OnFailure, PagerStats};
use crate::ids::Shard;

/// A pager thread.
pub(super) struct ShardThread {
    commands: SyncSender<Command>,
    bell: Arc<Bell>,
    state: Mutex<State>,
}

enum State {
    /// (`None` only for the moment in which somebody waits for the thread's end.)
    Running(Option<JoinHandle<PagerStats>>),
    Stopped(Box<PagerStats>),
}

impl ShardThread {
    /// Starts the thread of a shard. `commands` and `bell` are what the driver listens to.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(
        shard: Shard,
        driver: Driver,
        on_failure: OnFailure,
        (bell, commands): (Arc<Bell>, SyncSender<Command>),
    ) -> io::Result<Self> {
        let name = if shard == Shard::FIRST { "pager".into() } else { format!("pager{}", shard.0) };
        let thread = std::thread::Builder::new().name(name).spawn(move || driver.run(&*on_failure))?;
        Ok(ShardThread { commands, bell, state: Mutex::new(State::Running(Some(thread))) })
    }

    /// Gives the thread a command; waits while too many others do.
    ///
    /// # Errors
    /// If the thread has stopped.
    pub fn send(&self, command: Command) -> Result<(), BorrowError> {
        self.commands.send(command).map_err(|_| BorrowError::Stopped)?;
        self.bell.ring();
        Ok(())
    }

    /// Asks the thread something. The answer never comes if it has stopped.
    pub fn ask<T>(&self, question: impl FnOnce(SyncSender<T>) -> Command) -> Receiver<T> {
        let (reply, answer) = sync_channel(1);
        // A question that is not taken drops the other end with it.
        let _ = self.send(question(reply));
        answer
    }

    /// What the thread had counted when it stopped; nothing while it runs.
    pub fn last_stats(&self) -> PagerStats {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Stopped(stats) => (**stats).clone(),
            State::Running(_) => PagerStats { nodes: 1, ..PagerStats::default() },
        }
    }

    /// Tells the thread to stop.
    pub fn tell_stop(&self) {
        // It has ended already if nobody takes the command.
        let _ = self.send(Command::Stop);
    }

    /// Waits for the thread's end, after [`ShardThread::tell_stop`].
    pub fn join(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(running) = &mut *state {
            // A thread cannot wait for its own end: `on_failure` that stops the pager only asks for it.
            let own =
                running.as_ref().is_some_and(|running| running.thread().id() == std::thread::current().id());
            if let Some(running) = running.take_if(|_| !own) {
                *state = State::Stopped(Box::new(running.join().unwrap_or_default()));
            }
        }
    }
}
