//! The guests of which this daemon runs a part, and those that it has lost.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tessera_dsm::NodeId;
use tracing::{debug, info, warn};

use super::spawn::{Ended, WorkerProcess, WorkerSpawner};
use crate::control::ask::{GuestList, ListedGuest, LostGuest};
use crate::control::guest::{GuestId, GuestName};
use crate::control::lifeline::{FromWorker, Lifeline, ToWorker};
use crate::control::orders::Stage;

/// How many lost guests are remembered.
const LOST_MAX: usize = 32;
/// How long to wait for the place of a worker that has said that its guest has ended.
const ENDING_LIMIT: Duration = Duration::from_secs(3);
/// How long a worker's word of its end may be on its way.
const NEWS_LIMIT: Duration = Duration::from_millis(100);

/// The daemon's end of a worker's lifeline.
pub(super) type WorkerLine = Arc<Lifeline>;

/// All guests of the daemon.
pub(super) struct Guests {
    most: usize,
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    lost: VecDeque<LostGuest>,
    closing: bool,
}

struct Entry {
    id: GuestId,
    name: GuestName,
    stage: Stage,
    node: Option<NodeId>,
    hosts: Vec<String>,
    /// Absent until the worker is started.
    worker: Option<Worker>,
}

struct Worker {
    pid: u32,
    line: WorkerLine,
    kill: Box<dyn Fn() + Send>,
}

/// A place in the table for a guest whose worker is about to be started. Given up when dropped unused.
pub(super) struct Reservation {
    guests: Arc<Guests>,
    id: GuestId,
    name: GuestName,
    used: bool,
}

impl Reservation {
    /// The guest's id.
    pub fn id(&self) -> GuestId {
        self.id
    }

    /// The guest's name.
    pub fn name(&self) -> &GuestName {
        &self.name
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.used {
            self.guests.forget(self.id, None);
        }
    }
}

impl Guests {
    /// No guests yet, and never more than `most`.
    pub fn new(most: usize) -> Self {
        Guests { most, table: Mutex::default(), changed: Condvar::new() }
    }

    /// The table stays consistent even if a thread panics: each change is one push, removal or assignment.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more guests may come.
    pub fn free(&self) -> u32 {
        self.most.saturating_sub(self.table().entries.len()) as u32
    }

    /// Takes a place for a guest; an error is the line for who asked. One that is about to become free is
    /// waited for: after a reset the launcher comes back faster than the old worker is gone.
    pub fn reserve(self: &Arc<Self>, id: GuestId, name: GuestName) -> Result<Reservation, String> {
        let begin = Instant::now();
        let mut table = self.table();
        while let Err(why) = self.check_room(&table, id, &name) {
            let ending = table.entries.iter().any(|entry| entry.stage == Stage::Ended);
            let limit = if ending { ENDING_LIMIT } else { NEWS_LIMIT };
            let left = limit.saturating_sub(begin.elapsed());
            if table.closing || left.is_zero() {
                return Err(why);
            }
            table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (stage, node, hosts, worker) = (Stage::Created, None, vec![], None);
        table.entries.push(Entry { id, name: name.clone(), stage, node, hosts, worker });
        Ok(Reservation { guests: self.clone(), id, name, used: false })
    }

    fn check_room(&self, table: &Table, id: GuestId, name: &GuestName) -> Result<(), String> {
        if table.closing {
            return Err("this daemon is shutting down".into());
        }
        if table.entries.iter().any(|entry| entry.id == id) {
            return Err("this guest already has a node here: name each daemon once in --hosts".into());
        }
        if table.entries.iter().any(|entry| entry.name == *name) {
            return Err(format!(
                "a guest named {name} already runs here: choose another --name or stop that one"
            ));
        }
        if table.entries.len() >= self.most {
            return Err(format!(
                "this daemon already runs {} guests, the most that --max-guests allows",
                self.most
            ));
        }
        Ok(())
    }

    /// Starts the worker of a reserved guest. Only to be called from a thread that outlives the worker.
    pub fn start(
        self: &Arc<Self>,
        mut reservation: Reservation,
        spawner: &dyn WorkerSpawner,
        launcher: TcpStream,
    ) -> io::Result<u32> {
        let (here, there) = Lifeline::pair()?;
        let line = Arc::new(here);
        let mut process = spawner.spawn(launcher, there)?;
        let (id, pid) = (reservation.id, process.id());
        let kill = process.killer();
        let mut table = self.table();
        if let Some(entry) = table.entries.iter_mut().find(|entry| entry.id == id) {
            entry.worker = Some(Worker { pid, line: line.clone(), kill });
        }
        if table.closing {
            // It came too late to be asked with the others.
            let _dead = line.send(&ToWorker::Shutdown);
        }
        drop(table);
        let (guests, name) = (self.clone(), reservation.name.clone());
        let listen = move || guests.listen(id, &line);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("worker-line").spawn(listen)?;
        let guests = self.clone();
        thread("worker-wait").spawn(move || guests.await_end(id, &name, &mut *process))?;
        reservation.used = true;
        Ok(pid)
    }

    /// Takes in what a worker tells of itself, until its end.
    fn listen(&self, id: GuestId, line: &Lifeline) {
        loop {
            match line.receive::<FromWorker>() {
                Ok(Some((news, _))) => self.learn(id, news),
                Ok(None) => return,
                Err(error) => {
                    debug!("a worker's news was not understood: {error}");
                    return;
                }
            }
        }
    }

    fn learn(&self, id: GuestId, news: FromWorker) {
        let mut table = self.table();
        let Some(entry) = table.entries.iter_mut().find(|entry| entry.id == id) else { return };
        match news {
            FromWorker::Configured { node, hosts } => {
                entry.stage = Stage::Configured;
                entry.node = Some(node);
                entry.hosts = hosts;
            }
            FromWorker::Reached(stage) => entry.stage = stage,
        }
        drop(table);
        self.changed.notify_all();
    }

    fn await_end(&self, id: GuestId, name: &GuestName, process: &mut dyn WorkerProcess) {
        let pid = process.id();
        match process.wait() {
            Ended::InOrder => {
                info!("guest {name} ({id}): worker {pid} has ended");
                self.forget(id, None);
            }
            Ended::Otherwise(how) => {
                let how = format!("worker {pid} {how}");
                warn!("guest {name} ({id}) is lost: {how}");
                self.forget(id, Some(LostGuest { name: name.clone(), how }));
            }
        }
    }

    /// Takes a guest out of the table, and notes how it was lost.
    fn forget(&self, id: GuestId, lost: Option<LostGuest>) {
        let mut table = self.table();
        table.entries.retain(|entry| entry.id != id);
        if let Some(lost) = lost {
            if table.lost.len() >= LOST_MAX {
                table.lost.pop_front();
            }
            table.lost.push_back(lost);
        }
        drop(table);
        self.changed.notify_all();
    }

    /// The worker of a guest.
    pub fn by_id(&self, id: GuestId) -> Option<WorkerLine> {
        let table = self.table();
        let entry = table.entries.iter().find(|entry| entry.id == id)?;
        entry.worker.as_ref().map(|worker| worker.line.clone())
    }

    /// The worker of the guest with this name, or of the only guest; an error is the line for who asked.
    pub fn by_name(&self, name: Option<&GuestName>) -> Result<WorkerLine, String> {
        let table = self.table();
        let mut fitting = table.entries.iter().filter(|entry| name.is_none_or(|name| *name == entry.name));
        let entry = match (fitting.next(), fitting.next(), name) {
            (Some(entry), None, _) => entry,
            (Some(_), Some(_), _) => {
                let names: Vec<_> = table.entries.iter().map(|entry| entry.name.to_string()).collect();
                return Err(format!("several guests run here: choose one with --guest {}", names.join("|")));
            }
            (None, _, None) => {
                return Err(match table.lost.back() {
                    Some(lost) => format!("no guest runs here; guest {} was lost: {}", lost.name, lost.how),
                    None => "no guest runs here".into(),
                })
            }
            (None, _, Some(name)) => {
                return Err(match table.lost.iter().rev().find(|lost| lost.name == *name) {
                    Some(lost) => format!("guest {name} was lost: {}", lost.how),
                    None => format!("no guest named {name} runs here"),
                })
            }
        };
        match &entry.worker {
            Some(worker) => Ok(worker.line.clone()),
            None => Err(format!("guest {} is only just being started", entry.name)),
        }
    }

    /// All guests, for users.
    pub fn list(&self) -> GuestList {
        let table = self.table();
        let listed = |entry: &Entry| ListedGuest {
            name: entry.name.clone(),
            id: entry.id.to_string(),
            stage: entry.stage,
            node: entry.node,
            hosts: entry.hosts.clone(),
            pid: entry.worker.as_ref().map_or(0, |worker| worker.pid),
        };
        GuestList {
            guests: table.entries.iter().map(listed).collect(),
            lost: table.lost.iter().cloned().collect(),
        }
    }

    /// Takes no more guests, and asks all workers to end theirs.
    pub fn ask_all_to_end(&self) {
        let mut table = self.table();
        table.closing = true;
        self.changed.notify_all();
        for worker in table.entries.iter().filter_map(|entry| entry.worker.as_ref()) {
            // A worker that does not take it is killed later.
            let _dead = worker.line.send(&ToWorker::Shutdown);
        }
    }

    /// Kills all workers.
    pub fn kill_all(&self) {
        for entry in &self.table().entries {
            if let Some(worker) = &entry.worker {
                warn!("guest {}: worker {} does not end and is killed", entry.name, worker.pid);
                (worker.kill)();
            }
        }
    }

    /// Waits until no guest is left; whether that was so before the deadline.
    pub fn wait_until_none(&self, by: Instant) -> bool {
        let left = by.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.table(), left, |table| !table.entries.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> GuestName {
        text.parse().expect("name")
    }

    #[test]
    fn places_are_bounded_and_names_are_unique() {
        let guests = Arc::new(Guests::new(2));
        let first = guests.reserve(GuestId(1), name("a")).expect("room");
        let why = |result: Result<Reservation, String>| result.err().expect("refused");
        assert!(why(guests.reserve(GuestId(2), name("a"))).contains("already runs here"));
        assert!(why(guests.reserve(GuestId(1), name("b"))).contains("already has a node here"));
        let _second = guests.reserve(GuestId(2), name("b")).expect("room");
        assert!(why(guests.reserve(GuestId(3), name("c"))).contains("--max-guests"));
        drop(first);
        assert_eq!(guests.free(), 1);
        assert!(guests.reserve(GuestId(3), name("a")).is_ok(), "an unused place is given back");
    }

    #[test]
    fn users_are_told_which_guest_is_lost_and_how() {
        let guests = Arc::new(Guests::new(2));
        assert_eq!(guests.by_name(None).expect_err("none"), "no guest runs here");
        let lost = LostGuest { name: name("a"), how: "worker 7 was killed by signal 9".into() };
        guests.forget(GuestId(1), Some(lost));
        let why = guests.by_name(Some(&name("a"))).expect_err("lost");
        assert_eq!(why, "guest a was lost: worker 7 was killed by signal 9");
        assert!(guests.by_name(None).expect_err("none").ends_with("was killed by signal 9"));
        assert_eq!(guests.by_name(Some(&name("b"))).expect_err("none"), "no guest named b runs here");
        for i in 0..100 {
            guests.forget(GuestId(1), Some(LostGuest { name: name("x"), how: i.to_string() }));
        }
        assert_eq!(guests.list().lost.len(), LOST_MAX);
    }

    #[test]
    fn nothing_is_taken_once_the_daemon_closes() {
        let guests = Arc::new(Guests::new(2));
        guests.ask_all_to_end();
        assert!(guests.reserve(GuestId(1), name("a")).is_err());
        assert!(guests.wait_until_none(Instant::now()));
    }
}
