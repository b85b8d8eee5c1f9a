//! Programs of a Debian disk, in one guest over one host and then in one over several whose vCPUs move: each must come to
//! the same result. `cargo xtask demo --disk` and `cargo xtask soak programs` are made of it.

mod figures;

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::cluster::{Cluster, ClusterSpec, Kind};
use crate::guest::{self, Follower, GuestSpec, OnReset, Outcome, Word};
use crate::image::{Image, Recipe};
use crate::images::GUEST_INITRAMFS;
use crate::lab::LabSpec;
use crate::mover::{Begin, Mover, Moves, Plan as MovePlan};
use crate::progress::Step;
use crate::setup;

pub use figures::Summary;

/// What is to be run.
pub struct Plan {
    /// How many hosts the second guest spans.
    pub hosts: usize,
    /// Virtual CPUs of each guest.
    pub vcpus: u32,
    /// Memory of each guest, in MiB.
    pub memory_mib: u64,
    /// The image's jobs, by name.
    pub jobs: Vec<String>,
    /// How many times as long as usual they are.
    pub scale: u32,
    /// The least time between two rounds of moves.
    pub every: Duration,
    /// How long one guest may take.
    pub limit: Duration,
    /// Which kind of hosts.
    pub kind: Kind,
}

/// One guest, from its start to its end.
pub struct Run {
    /// What came out.
    pub outcome: Outcome,
    /// How long each job took, on the wall, in the order of the results.
    pub took: Vec<Duration>,
    /// The moves meanwhile.
    pub moves: Moves,
}

/// Carries the plan out.
///
/// # Errors
/// When the image cannot be made, or a guest does not come to a good end.
pub fn run(recipe: &Recipe, plan: &Plan) -> Result<Summary> {
    setup::ensure()?;
    let unknown = plan.jobs.iter().find(|name| !recipe.jobs.iter().any(|job| job.name == **name));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = recipe.jobs.iter().map(|job| job.name).collect();
        anyhow::bail!("image {} has no program {unknown}; it has: {}", recipe.name, known.join(", "));
    }
    let image = Image::get(recipe)?;
    let files = vec![("kernel".to_owned(), image.kernel()), (GUEST_INITRAMFS.to_owned(), image.initramfs())];
    let lab = LabSpec {
        hosts: plan.hosts,
        memory_mib: plan.memory_mib + LabSpec::HOST_OWN_MIB,
        // A fresh one for each guest.
        disks: vec![image.disk(); 2],
        ..LabSpec::default()
    };
    let cluster = Cluster::start(ClusterSpec { kind: plan.kind, lab, files })?;
    let one = over(&cluster, plan, 1)?;
    let all = over(&cluster, plan, plan.hosts)?;
    Ok(Summary::of(plan, cluster.kind(), &one, &all))
}

fn over(cluster: &Cluster, plan: &Plan, hosts: usize) -> Result<Run> {
    let name = format!("disk-{hosts}");
    let disk = cluster.disk(usize::from(hosts > 1))?;
    let spec = GuestSpec {
        name: name.clone(),
        hosts,
        vcpus: plan.vcpus,
        vcpus_per_host: Vec::new(),
        memory_mib: plan.memory_mib,
        kernel: "kernel".to_owned(),
        initramfs: Some(GUEST_INITRAMFS.to_owned()),
        cmdline: format!(
            "console=ttyS0 quiet root=/dev/vda rw maxcpus=1 tessera.job={} tessera.scale={}",
            plan.jobs.join(","),
            plan.scale
        ),
        on_reset: OnReset::Exit,
        lease_us: None,
        options: vec!["--disk".to_owned(), format!("path={disk},image_type=raw")],
        limit: plan.limit,
    };
    let places = if hosts == 1 { "one host".to_owned() } else { format!("{hosts} hosts, vCPUs moving") };
    let step = Step::start(format!("Debian disk with {} vCPUs over {places}", plan.vcpus));
    let moves = MovePlan {
        hosts,
        round: plan.vcpus.into(),
        every: plan.every,
        most: if plan.every.is_zero() { 0 } else { u64::MAX },
        begin: Begin::WhenUp,
    };
    let mover = Mover::new(cluster.control(&name), moves, plan.jobs.len());
    let mut timed = Timed { mover, step: &step, words_at: Vec::new() };
    let outcome = guest::run(cluster, &spec, &mut timed)?;
    let Timed { mover, words_at, .. } = timed;
    let moves = mover.finish();
    outcome.check().with_context(|| format!("over {places}\n{}", moves.errors.join("\n")))?;
    ensure!(outcome.results.len() == plan.jobs.len(), "not all programs said how they ended");
    step.done(&format!("{} results", outcome.results.len()));
    let took = words_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    Ok(Run { outcome, took, moves })
}

/// Follows a guest with a mover, and notes when each job ended.
struct Timed<'a> {
    mover: Mover,
    step: &'a Step,
    /// When the guest was up, and when each result came.
    words_at: Vec<Instant>,
}

impl Follower for Timed<'_> {
    fn console(&mut self, bytes: &[u8]) {
        self.mover.console(bytes);
    }

    fn word(&mut self, word: &Word) {
        match word {
            Word::Ready(_) => self.words_at.push(Instant::now()),
            Word::Result(result) => {
                self.words_at.push(Instant::now());
                self.step.note(&format!("{} has ended", result["program"].as_str().unwrap_or("a program")));
            }
            Word::LogProblems(_) => {}
        }
        self.mover.word(word);
    }
}
