//! The two runs of the demo.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::spread::Percentiles;
use crate::cluster::Cluster;
use crate::guest::{self, GuestSpec, OnReset, Outcome};
use crate::kernels::Series;
use crate::mover::{Begin, Mover, Moves, Plan as MovePlan};
use crate::progress::Step;
use crate::{images, tessera};

/// What is to be shown.
pub struct Plan {
    /// How many hosts the second run spans.
    pub hosts: usize,
    /// Virtual CPUs of the guest.
    pub vcpus: u32,
    /// Memory of the guest.
    pub memory_mib: u64,
    /// How many moves.
    pub moves: u64,
    /// How often.
    pub move_every: Duration,
    /// The guest's programs.
    pub workload: String,
    /// What else stands on the guest's kernel command line.
    pub append: String,
    /// The guest's kernel.
    pub kernel: Series,
    /// How long one run may take.
    pub limit: Duration,
}

/// What came out.
pub struct Summary {
    /// How many hosts.
    pub hosts: usize,
    /// How many vCPUs.
    pub vcpus: u32,
    /// What kind of hosts.
    pub kind: &'static str,
    /// The run over one host; the run itself, if there is only one host.
    pub one: Option<Outcome>,
    /// The run over all hosts.
    pub all: Outcome,
    /// The moves during that run.
    pub moves: Moves,
    /// Whether both runs gave the same results, bit for bit.
    pub results_equal: bool,
}

impl Summary {
    /// Whether everything was as it should be.
    pub fn is_good(&self) -> bool {
        self.results_equal && self.moves.errors.is_empty() && self.log_problems() == Some(0)
    }

    /// Trouble in the guest's kernel log, both runs together; `None` if a run did not come to tell.
    pub fn log_problems(&self) -> Option<u64> {
        std::iter::once(&self.all).chain(&self.one).map(|outcome| outcome.log_problems).sum()
    }

    /// Blackouts of the moves.
    pub fn blackout_us(&self) -> Percentiles {
        Percentiles::of(&self.moves.blackout_us)
    }

    /// Figures of the nodes in the run over all hosts.
    pub fn nodes(&self) -> &[tessera::NodeStats] {
        self.all.report.as_ref().map_or(&[], tessera::Report::nodes)
    }
}

/// Carries out the plan.
///
/// # Errors
/// When a guest cannot be started or does not come to a good end.
pub fn run(cluster: &Cluster, plan: &Plan) -> Result<Summary> {
    let one = if plan.hosts > 1 { Some(run_on(cluster, plan, 1)?.0) } else { None };
    let (all, moves) = run_on(cluster, plan, plan.hosts)?;
    let results_equal = match &one {
        Some(one) => !all.results.is_empty() && results(one) == results(&all),
        None => !all.results.is_empty(),
    };
    Ok(Summary { hosts: plan.hosts, vcpus: plan.vcpus, kind: cluster.kind(), one, all, moves, results_equal })
}

fn run_on(cluster: &Cluster, plan: &Plan, hosts: usize) -> Result<(Outcome, Moves)> {
    let name = format!("demo-{hosts}");
    let spec = GuestSpec {
        name: name.clone(),
        hosts,
        vcpus: plan.vcpus,
        vcpus_per_host: Vec::new(),
        memory_mib: plan.memory_mib,
        kernel: images::kernel_name(plan.kernel),
        initramfs: Some(images::GUEST_INITRAMFS.to_owned()),
        cmdline: format!("console=ttyS0 quiet maxcpus=1 {} tessera.run={}", plan.append, plan.workload),
        on_reset: OnReset::Exit,
        lease_us: None,
        options: Vec::new(),
        limit: plan.limit,
    };
    let places = if hosts == 1 { "one host".to_owned() } else { format!("{hosts} hosts, vCPUs moving") };
    let step = Step::start(format!("guest with {} vCPUs over {places}", plan.vcpus));
    let moves = MovePlan {
        hosts,
        round: plan.vcpus.into(),
        every: plan.move_every,
        most: plan.moves,
        begin: Begin::WhenUp,
    };
    let mut mover = Mover::new(cluster.control(&name), moves, plan.workload.split(',').count());
    let outcome = guest::run(cluster, &spec, &mut mover)?;
    let moves = mover.finish();
    outcome.check().with_context(|| format!("over {places}\n{}", moves.errors.join("\n")))?;
    ensure!(!outcome.results.is_empty(), "the guest gave no result\n{}", outcome.console_tail);
    step.done(&format!("{} results", outcome.results.len()));
    Ok((outcome, moves))
}

/// What of the results must be the same in every run: which programs ran, and the checksum of all that each of
/// them computed. Times differ, and so does how much a program does in a given time.
fn results(outcome: &Outcome) -> Vec<(&Value, &Value)> {
    outcome.results.iter().map(|result| (&result["program"], &result["checksum"])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn outcome(checksum: &str, seconds: f64) -> Outcome {
        let result = json!({"program": "mgs", "seconds": seconds, "checksum": checksum, "ok": true});
        Outcome { results: vec![result], ..Outcome::default() }
    }

    #[test]
    fn only_what_was_computed_counts() {
        assert_eq!(results(&outcome("00ff", 1.0)), results(&outcome("00ff", 2.0)));
        assert_ne!(results(&outcome("00ff", 1.0)), results(&outcome("01ff", 1.0)));
        assert_ne!(results(&outcome("00ff", 1.0)), results(&Outcome::default()));
    }
}
