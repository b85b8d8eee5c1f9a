//! From what the user asks and the hosts offer to the description of the guest.

use kvm_bindings::kvm_cpuid_entry2;
use tessera_dsm::{Layout, NodeId, EXTENT_BYTES, NODES_MAX};

use super::error::LaunchError;
use super::inputs::KernelKind;
use super::request::{CpuRequest, MemoryRequest, PagerRequest, RunRequest, DEFAULT_MEMORY_BYTES};
use super::survey::Surveyed;
use crate::boot::{self, cmdline};
use crate::control::devices::{self, DeviceSpec};
use crate::control::guest::{
    GuestHost, GuestId, GuestName, GuestSpec, PagerSpec, Transport, VcpuPlace, VCPUS_MAX,
};
use crate::cpuid::{self, AsyncFaults};

/// The guest, but for its id and the node that the description is for.
#[derive(Clone, Debug)]
pub struct Plan {
    template: GuestSpec,
}

/// Checks what can be checked of a request without asking any host.
///
/// # Errors
/// The first option that makes no sense.
pub fn check_request(request: &RunRequest) -> Result<(), LaunchError> {
    let nodes = request.hosts.len().max(1);
    if nodes > NODES_MAX {
        return Err(LaunchError::Options(format!("--hosts names {nodes} hosts; the most is {NODES_MAX}")));
    }
    if let Some(twice) = request.hosts.iter().enumerate().find(|(i, host)| request.hosts[..*i].contains(host))
    {
        return Err(LaunchError::Options(format!("--hosts names {} twice", twice.1)));
    }
    vcpus_per_node(&request.cpus, nodes)?;
    devices_of(request)?;
    let total = total_bytes(&request.memory, nodes)?;
    boot::layout_for(total, nodes).map_err(|_| {
        LaunchError::Options(format!("--memory: {total} bytes cannot be shared by {nodes} hosts"))
    })?;
    Ok(())
}

/// Makes the plan.
///
/// # Errors
/// When the hosts together cannot carry the guest.
pub fn make(
    request: &RunRequest,
    name: &GuestName,
    kernel: KernelKind,
    hosts: &[Surveyed],
) -> Result<Plan, LaunchError> {
    let nodes = hosts.len();
    let vcpus_per_node = vcpus_per_node(&request.cpus, nodes)?;
    let bad = |error: &dyn std::fmt::Display| LaunchError::Hosts(error.to_string());
    let apic_ids = cpuid::apic_ids(&vcpus_per_node).map_err(|error| bad(&error))?;
    let features: Vec<Vec<kvm_cpuid_entry2>> = hosts.iter().map(|host| host.kvm.cpuid.clone()).collect();
    let tsc_khz = hosts[0].kvm.tsc_khz;
    let mut shown = cpuid::levelled(&features).map_err(|error| bad(&error))?;
    if request.async_faults == AsyncFaults::Offered {
        cpuid::offer_async_faults(&mut shown, &features).map_err(|lacking| LaunchError::Host {
            host: format!("host {}", hosts[lacking.host].address),
            problem: lacking.to_string(),
        })?;
    }
    let mut template = GuestSpec {
        guest: GuestId(0),
        name: name.clone(),
        me: NodeId::HOME,
        hosts: hosts.iter().map(guest_host).collect(),
        layout: layout(&request.memory, hosts)?,
        vcpus: apic_ids.into_iter().map(|(apic_id, node)| VcpuPlace { apic_id, node }).collect(),
        cpuid: shown,
        tsc_khz,
        cmdline: String::new(),
        lease_us: request.lease_us,
        links: request.links,
        pagers: pagers(&request.pagers, hosts),
        devices: devices_of(request)?,
    };
    template.cmdline = match kernel.is_linux() {
        true => {
            let tsc_khz = told_frequency(tsc_khz, request.slow_clock)?;
            let guest = cmdline::Guest { tsc_khz, vcpus: template.vcpus.len(), hosts: nodes };
            cmdline::compose(&request.cmdline, &guest)
        }
        false => payload_cmdline(&request.cmdline, &template),
    };
    template.check()?;
    check_transport(&template)?;
    Ok(Plan { template })
}

/// Most pagers of a node for which none are asked.
const PAGERS_MAX_DEFAULT: usize = 4;
/// One pager for so many processors, where none are asked for.
const CPUS_PER_PAGER: usize = 4;

/// How many pagers each node has: what was asked for, or what the smallest host can well spare.
fn pagers(request: &PagerRequest, hosts: &[Surveyed]) -> PagerSpec {
    // There all pagers of a node share the one vCPU that makes KVM forget page tables, and it changes threads slowly.
    let shadows = hosts.iter().any(|host| host.kvm.kind.shadows_page_tables());
    let cpus = hosts.iter().map(|host| host.offer.cpus as usize).min().unwrap_or(1);
    let suits = if shadows { 1 } else { (cpus / CPUS_PER_PAGER).clamp(1, PAGERS_MAX_DEFAULT) as u8 };
    PagerSpec { most: request.most.unwrap_or(suits), stripe_mib: request.stripe_mib }
}

/// Memory is shared only on one machine.
fn check_transport(spec: &GuestSpec) -> Result<(), LaunchError> {
    let far = spec.peers().find(|&node| !spec.is_on_own_machine(node));
    match (spec.links.transport, far) {
        (Transport::Shared, Some(far)) => Err(LaunchError::Hosts(format!(
            "{} and {} are not one machine, so that they cannot share memory: leave out --links shared",
            spec.host_name(spec.me),
            spec.host_name(far)
        ))),
        _ => Ok(()),
    }
}

/// The frequency that the guest is told: more than it is, so that for the guest time passes more slowly.
fn told_frequency(tsc_khz: u32, slow_clock: u32) -> Result<u32, LaunchError> {
    /// Linux programs its timers in eighths of cycles with 32 bits for the frequency.
    const TOLD_MAX_KHZ: u32 = 34_000_000;
    match tsc_khz.checked_mul(slow_clock) {
        Some(told) if told <= TOLD_MAX_KHZ || slow_clock == 1 => Ok(told),
        _ => Err(LaunchError::Options(format!(
            "--slow-clock {slow_clock}: with hosts of {tsc_khz} kHz it is at most {}",
            (TOLD_MAX_KHZ / tsc_khz.max(1)).max(1)
        ))),
    }
}

/// The devices, their paths as the home node's host reads them.
fn devices_of(request: &RunRequest) -> Result<Vec<DeviceSpec>, LaunchError> {
    let mut all = request.devices.clone();
    if request.hosts.is_empty() {
        // The home node is here, but a daemon and a worker are between.
        for path in all.iter_mut().filter_map(DeviceSpec::path_mut) {
            *path = std::path::absolute(&*path).map_err(LaunchError::local("cannot tell where this is"))?;
        }
    }
    devices::check(&all).map_err(|error| LaunchError::Options(error.to_string()))?;
    Ok(all)
}

/// A payload reads no ACPI tables: its command line says what it must know. The user's own words come last,
/// and count.
fn payload_cmdline(user: &str, spec: &GuestSpec) -> String {
    let ids: Vec<String> = spec.vcpus.iter().map(|vcpu| vcpu.apic_id.to_string()).collect();
    format!("apic={} tsc_khz={} {user}", ids.join(","), spec.tsc_khz)
}

impl Plan {
    /// The description for `node` of the guest with this id.
    pub fn spec_for(&self, guest: GuestId, me: NodeId) -> GuestSpec {
        GuestSpec { guest, me, ..self.template.clone() }
    }

    /// What is the same for all nodes.
    pub fn template(&self) -> &GuestSpec {
        &self.template
    }
}

fn guest_host(host: &Surveyed) -> GuestHost {
    GuestHost {
        address: host.address.clone(),
        hostname: host.offer.hostname.clone(),
        boot_id: host.offer.boot_id.clone(),
    }
}

fn vcpus_per_node(cpus: &CpuRequest, nodes: usize) -> Result<Vec<u32>, LaunchError> {
    let fail = |text: String| Err(LaunchError::Options(format!("--cpus: {text}")));
    let given: u64 = cpus.per_host.iter().map(|&count| u64::from(count)).sum();
    if !cpus.per_host.is_empty() && cpus.per_host.len() != nodes {
        return fail(format!("per-host has {} numbers, and there are {nodes} hosts", cpus.per_host.len()));
    }
    let total = match (cpus.boot, cpus.per_host.is_empty()) {
        (Some(boot), false) if u64::from(boot) != given => {
            return fail(format!("boot={boot}, but per-host adds up to {given}"));
        }
        (Some(boot), _) => u64::from(boot),
        (None, false) => given,
        (None, true) => 1,
    };
    if total == 0 || total > VCPUS_MAX as u64 {
        return fail(format!("a guest has 1 to {VCPUS_MAX} vCPUs, not {total}"));
    }
    if !cpus.per_host.is_empty() {
        return match cpus.per_host[0] {
            0 => fail("the first host must have a vCPU: the guest boots there".into()),
            _ => Ok(cpus.per_host.clone()),
        };
    }
    let (each, over) = (total / nodes as u64, total % nodes as u64);
    Ok((0..nodes as u64).map(|node| (each + u64::from(node < over)) as u32).collect())
}

fn total_bytes(memory: &MemoryRequest, nodes: usize) -> Result<u64, LaunchError> {
    let fail = |text: String| Err(LaunchError::Options(format!("--memory: {text}")));
    let shares = &memory.per_host_bytes;
    if !shares.is_empty() && shares.len() != nodes {
        return fail(format!("per-host has {} sizes, and there are {nodes} hosts", shares.len()));
    }
    let sum = shares.iter().try_fold(0u64, |sum, &share| sum.checked_add(share));
    let Some(sum) = sum else { return fail("per-host adds up to too much".into()) };
    if let Some(share) = shares.iter().find(|&&share| share == 0 || share % EXTENT_BYTES != 0) {
        return fail(format!("a share of {share} bytes is not a multiple of 2 MiB, which is the least"));
    }
    let total = match memory.size_bytes {
        Some(size) if !shares.is_empty() && size != sum => {
            return fail(format!("size is {size} bytes, but per-host adds up to {sum}"));
        }
        Some(size) => size,
        None if shares.is_empty() => DEFAULT_MEMORY_BYTES,
        None => sum,
    };
    if total == 0 || total % EXTENT_BYTES != 0 {
        return fail(format!("{total} bytes is not a multiple of 2 MiB"));
    }
    Ok(total)
}

fn layout(memory: &MemoryRequest, hosts: &[Surveyed]) -> Result<Layout, LaunchError> {
    let total = total_bytes(memory, hosts.len())?;
    let free: Vec<u64> = hosts.iter().map(|host| host.offer.memory_free_bytes).collect();
    let shares = match memory.per_host_bytes.is_empty() {
        false => memory.per_host_bytes.clone(),
        true => shares_within(total, &free).unwrap_or_else(|| even_shares(total, hosts.len())),
    };
    // Nodes on one machine draw on the same memory.
    for (i, host) in hosts.iter().enumerate() {
        let same = |other: &&Surveyed| other.offer.boot_id == host.offer.boot_id;
        let wanted: u64 =
            hosts.iter().zip(&shares).filter(|(other, _)| same(other)).map(|(_, share)| share).sum();
        if wanted > free[i] {
            return Err(short_of_memory(total, wanted, host, hosts));
        }
    }
    boot::layout_with_shares(&shares).map_err(|error| LaunchError::Options(format!("--memory: {error}")))
}

fn short_of_memory(total: u64, wanted: u64, host: &Surveyed, hosts: &[Surveyed]) -> LaunchError {
    let mib = |bytes: u64| bytes >> 20;
    if hosts.len() == 1 {
        let problem = format!(
            "has {} MiB of memory free, the guest needs {} MiB",
            mib(host.offer.memory_free_bytes),
            mib(total)
        );
        return LaunchError::Host { host: format!("host {}", host.address), problem };
    }
    let have: Vec<String> = hosts
        .iter()
        .map(|host| format!("{} has {} MiB free", host.address, mib(host.offer.memory_free_bytes)))
        .collect();
    LaunchError::Hosts(format!(
        "the guest's {} MiB do not fit: {} would have to hold {} MiB ({}): give it less memory or more hosts",
        mib(total),
        host.address,
        mib(wanted),
        have.join(", ")
    ))
}

fn even_shares(total: u64, nodes: usize) -> Vec<u64> {
    let (extents, nodes) = (total / EXTENT_BYTES, nodes as u64);
    (0..nodes).map(|node| (extents / nodes + u64::from(node < extents % nodes)) * EXTENT_BYTES).collect()
}

/// Shares as even as the hosts' free memory allows; `None` when it does not suffice.
fn shares_within(total: u64, free: &[u64]) -> Option<Vec<u64>> {
    let room: Vec<u64> = free.iter().map(|bytes| bytes / EXTENT_BYTES).collect();
    let mut left = total / EXTENT_BYTES;
    let mut shares = vec![0u64; free.len()];
    while left > 0 {
        let open: Vec<usize> = (0..free.len()).filter(|&node| shares[node] < room[node]).collect();
        let each = left.checked_div(open.len() as u64)?.max(1);
        for node in open {
            let more = each.min(room[node] - shares[node]).min(left);
            shares[node] += more;
            left -= more;
        }
    }
    let all_have_some = shares.iter().all(|&share| share > 0);
    all_have_some.then(|| shares.iter().map(|share| share * EXTENT_BYTES).collect())
}

/// The features that some hosts have and the guest does not get because others lack them, in words.
pub fn dropped_features(hosts: &[Surveyed]) -> Vec<String> {
    let mut dropped = Vec::new();
    for &(function, index, register, bit, name) in FEATURES {
        let has = |host: &Surveyed| {
            let leaf = host.kvm.cpuid.iter().find(|leaf| leaf.function == function && leaf.index == index);
            leaf.is_some_and(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][register] >> bit & 1 != 0)
        };
        let lacking: Vec<String> =
            hosts.iter().filter(|host| !has(host)).map(|host| host.address.to_string()).collect();
        if !lacking.is_empty() && lacking.len() < hosts.len() {
            dropped.push(format!("{name} (not on {})", lacking.join(", ")));
        }
    }
    dropped
}

const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Features whose absence a user would notice: leaf, index, register, bit (SDM volume 2, CPUID; APM volume 3,
/// appendix E), and the name that /proc/cpuinfo has for it.
const FEATURES: &[(u32, u32, usize, u32, &str)] = &[
    (1, 0, ECX, 0, "sse3"),
    (1, 0, ECX, 1, "pclmulqdq"),
    (1, 0, ECX, 9, "ssse3"),
    (1, 0, ECX, 12, "fma"),
    (1, 0, ECX, 13, "cx16"),
    (1, 0, ECX, 19, "sse4_1"),
    (1, 0, ECX, 20, "sse4_2"),
    (1, 0, ECX, 22, "movbe"),
    (1, 0, ECX, 23, "popcnt"),
    (1, 0, ECX, 24, "tsc_deadline_timer"),
    (1, 0, ECX, 25, "aes"),
    (1, 0, ECX, 26, "xsave"),
    (1, 0, ECX, 28, "avx"),
    (1, 0, ECX, 29, "f16c"),
    (1, 0, ECX, 30, "rdrand"),
    (7, 0, EBX, 0, "fsgsbase"),
    (7, 0, EBX, 3, "bmi1"),
    (7, 0, EBX, 5, "avx2"),
    (7, 0, EBX, 7, "smep"),
    (7, 0, EBX, 8, "bmi2"),
    (7, 0, EBX, 9, "erms"),
    (7, 0, EBX, 10, "invpcid"),
    (7, 0, EBX, 16, "avx512f"),
    (7, 0, EBX, 17, "avx512dq"),
    (7, 0, EBX, 18, "rdseed"),
    (7, 0, EBX, 19, "adx"),
    (7, 0, EBX, 20, "smap"),
    (7, 0, EBX, 23, "clflushopt"),
    (7, 0, EBX, 24, "clwb"),
    (7, 0, EBX, 28, "avx512cd"),
    (7, 0, EBX, 29, "sha_ni"),
    (7, 0, EBX, 30, "avx512bw"),
    (7, 0, EBX, 31, "avx512vl"),
    (7, 0, ECX, 2, "umip"),
    (7, 0, ECX, 3, "pku"),
    (7, 0, ECX, 8, "gfni"),
    (7, 0, ECX, 9, "vaes"),
    (7, 0, ECX, 10, "vpclmulqdq"),
    (7, 0, ECX, 11, "avx512_vnni"),
    (7, 0, ECX, 22, "rdpid"),
    (7, 0, EDX, 4, "fsrm"),
    (7, 0, EDX, 22, "amx_bf16"),
    (7, 0, EDX, 24, "amx_tile"),
    (0x8000_0001, 0, ECX, 5, "abm"),
    (0x8000_0001, 0, ECX, 6, "sse4a"),
    (0x8000_0001, 0, EDX, 20, "nx"),
    (0x8000_0001, 0, EDX, 26, "pdpe1gb"),
    (0x8000_0001, 0, EDX, 27, "rdtscp"),
    (0x8000_0008, 0, EBX, 0, "clzero"),
];

#[cfg(test)]
mod tests {
    use super::super::request::{EventFormat, OnReboot, TableWritePolicy};
    use super::super::survey::{self, tests::fit};
    use super::*;
    use crate::control::devices::{DiskAccess, DiskFormat, DiskSpec};
    use crate::control::guest::LinkSpec;
    use crate::host::KvmKind;

    const MIB: u64 = 1 << 20;

    fn request(hosts: usize) -> RunRequest {
        RunRequest {
            name: None,
            hosts: (0..hosts).map(|i| format!("h{i}").parse().expect("address")).collect(),
            kernel: Some("k".into()),
            initramfs: None,
            cmdline: "mine".into(),
            cpus: CpuRequest::default(),
            memory: MemoryRequest::default(),
            devices: vec![],
            lease_us: None,
            links: LinkSpec::default(),
            pagers: PagerRequest::default(),
            report: None,
            on_reboot: OnReboot::Restart,
            events: EventFormat::Log,
            table_writes: TableWritePolicy::Refuse,
            tsc_tolerance_ppm: 250,
            slow_clock: 1,
            async_faults: AsyncFaults::Hidden,
            worker_arguments: vec![],
        }
    }

    fn surveyed(hosts: usize) -> Vec<Surveyed> {
        let offers = (0..hosts).map(|i| fit(&format!("h{i}"))).collect();
        survey::judge(offers, TableWritePolicy::Refuse, 250).expect("fit")
    }

    fn plan(request: &RunRequest, hosts: &[Surveyed], kernel: KernelKind) -> Result<Plan, LaunchError> {
        make(request, &"g".parse().expect("name"), kernel, hosts)
    }

    fn shares(plan: &Plan, nodes: u8) -> Vec<u64> {
        let regions = plan.template().layout.regions();
        let of = |node| regions.iter().filter(|r| r.home == NodeId(node)).map(|r| r.pages * 4096 / MIB).sum();
        (0..nodes).map(of).collect()
    }

    #[test]
    fn there_are_as_many_pagers_as_asked_for_or_as_the_smallest_host_can_spare() {
        let nested = KvmKind::Intel { ept: Some(true), eptad: Some(false) };
        let most = |asked, cpus: [u32; 2], kind| {
            let mut hosts = surveyed(2);
            for (host, cpus) in hosts.iter_mut().zip(cpus) {
                (host.offer.cpus, host.kvm.kind) = (cpus, kind);
            }
            let mut request = request(2);
            request.pagers = PagerRequest { most: asked, ..PagerRequest::default() };
            plan(&request, &hosts, KernelKind::Payload).expect("fits").template().pagers.most
        };
        assert_eq!([1, 2, 4, 7, 8, 12, 64].map(|cpus| most(None, [cpus, 96], nested)), [1, 1, 1, 1, 2, 3, 4]);
        assert_eq!(most(None, [64, 64], KvmKind::Amd { npt: Some(false) }), 1);
        assert_eq!(most(Some(8), [2, 2], KvmKind::Software), 8);
    }

    #[test]
    fn memory_and_vcpus_are_spread_evenly_by_default() {
        let mut request = request(3);
        request.cpus.boot = Some(4);
        let plan = plan(&request, &surveyed(3), KernelKind::BzImage).expect("plan");
        assert_eq!(shares(&plan, 3), [172, 170, 170]);
        let places: Vec<u8> = plan.template().vcpus.iter().map(|vcpu| vcpu.node.0).collect();
        assert_eq!(places, [0, 0, 1, 2]);
    }

    #[test]
    fn a_host_with_less_memory_gets_a_smaller_share() {
        let mut hosts = surveyed(2);
        hosts[1].offer.memory_free_bytes = 100 * MIB;
        let plan = plan(&request(2), &hosts, KernelKind::BzImage).expect("plan");
        assert_eq!(shares(&plan, 2), [412, 100]);
    }

    #[test]
    fn memory_that_nobody_has_is_refused_with_the_figures() {
        let mut big = request(2);
        big.memory.size_bytes = Some(4 << 30);
        let line = plan(&big, &surveyed(2), KernelKind::BzImage).expect_err("too much").to_string();
        assert!(line.contains("4096 MiB do not fit") && line.contains("h1:7070 has 1024 MiB free"), "{line}");
        let mut hosts = surveyed(2);
        hosts[1].offer.boot_id = hosts[0].offer.boot_id.clone();
        big.memory.size_bytes = Some(1500 * MIB);
        let line =
            plan(&big, &hosts, KernelKind::BzImage).expect_err("one machine's memory twice").to_string();
        assert!(line.contains("would have to hold 1500 MiB"), "{line}");
        let mut one = request(1);
        one.memory.size_bytes = Some(2 << 30);
        let line = plan(&one, &surveyed(1), KernelKind::BzImage).expect_err("too much").to_string();
        assert_eq!(line, "host h0:7070 has 1024 MiB of memory free, the guest needs 2048 MiB");
    }

    #[test]
    fn memory_is_shared_only_on_one_machine() {
        let mut shared = request(2);
        shared.links.transport = Transport::Shared;
        let mut hosts = surveyed(2);
        let line = plan(&shared, &hosts, KernelKind::BzImage).expect_err("two machines").to_string();
        assert!(line.contains("h0:7070 and h1:7070 are not one machine"), "{line}");
        hosts[1].offer.boot_id = hosts[0].offer.boot_id.clone();
        plan(&shared, &hosts, KernelKind::BzImage).expect("one machine");
    }

    #[test]
    fn each_kind_of_kernel_gets_what_it_needs_on_its_command_line() {
        let line = |kernel| plan(&request(1), &surveyed(1), kernel).expect("plan").template().cmdline.clone();
        assert!(
            line(KernelKind::BzImage).contains("tsc_early_khz=2000000")
                && line(KernelKind::BzImage).ends_with("mine")
        );
        assert_eq!(line(KernelKind::Payload), "apic=0 tsc_khz=2000000 mine");
    }

    #[test]
    fn asynchronous_faults_must_be_on_every_host() {
        let mut request = request(2);
        request.async_faults = AsyncFaults::Offered;
        let line = plan(&request, &surveyed(2), KernelKind::BzImage).expect_err("lacking").to_string();
        assert!(line.contains("host h0:7070 has") && line.contains("leave out --async-faults"), "{line}");
        let mut hosts = surveyed(2);
        for host in &mut hosts {
            let eax = cpuid::ASYNC_FAULTS;
            host.kvm.cpuid.push(kvm_cpuid_entry2 { function: 0x4000_0001, eax, ..Default::default() });
        }
        let plan = plan(&request, &hosts, KernelKind::BzImage).expect("plan");
        let leaf = plan.template().cpuid.iter().find(|leaf| leaf.function == 0x4000_0001).expect("leaf");
        assert_eq!(leaf.eax & cpuid::ASYNC_FAULTS, cpuid::ASYNC_FAULTS);
    }

    #[test]
    fn a_slow_clock_is_a_fast_counter_that_linux_can_reckon_with() {
        let mut slow = request(1);
        slow.slow_clock = 10;
        let line = |request: &RunRequest| {
            plan(request, &surveyed(1), KernelKind::BzImage).map(|plan| plan.template().cmdline.clone())
        };
        assert!(line(&slow).expect("plan").contains("tsc_early_khz=20000000"));
        slow.slow_clock = 20;
        assert!(line(&slow).expect_err("too slow").to_string().contains("at most 17"));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let refused = |change: &dyn Fn(&mut RunRequest)| {
            let mut request = request(2);
            check_request(&request).expect("valid");
            change(&mut request);
            check_request(&request).expect_err("refused").to_string()
        };
        let cases: [(String, &str); 11] = [
            (refused(&|r| r.hosts[1] = r.hosts[0].clone()), "--hosts names h0:7070 twice"),
            (refused(&|r| r.cpus.boot = Some(0)), "1 to 255 vCPUs, not 0"),
            (refused(&|r| r.cpus.boot = Some(256)), "1 to 255 vCPUs, not 256"),
            (refused(&|r| r.cpus.per_host = vec![1]), "per-host has 1 numbers, and there are 2 hosts"),
            (refused(&|r| r.cpus.per_host = vec![0, 1]), "the first host must have a vCPU"),
            (
                refused(&|r| r.cpus = CpuRequest { boot: Some(4), per_host: vec![1, 1] }),
                "boot=4, but per-host adds up to 2",
            ),
            (refused(&|r| r.memory.size_bytes = Some(MIB)), "not a multiple of 2 MiB"),
            (refused(&|r| r.memory.size_bytes = Some(2 * MIB)), "cannot be shared by 2 hosts"),
            (refused(&|r| r.memory.per_host_bytes = vec![MIB, MIB]), "not a multiple of 2 MiB"),
            (refused(&|r| r.memory.per_host_bytes = vec![u64::MAX, u64::MAX]), "too much"),
            (
                refused(&|r| {
                    r.memory =
                        MemoryRequest { size_bytes: Some(8 * MIB), per_host_bytes: vec![2 * MIB, 2 * MIB] }
                }),
                "per-host adds up to 4194304",
            ),
        ];
        for (line, part) in cases {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }

    #[test]
    fn paths_of_devices_are_the_home_nodes() {
        let disk = |path: &str| {
            DeviceSpec::Disk(DiskSpec {
                path: path.into(),
                format: DiskFormat::Unsaid,
                access: DiskAccess::ReadOnly,
                serial: String::new(),
            })
        };
        let mut there = request(2);
        there.devices = vec![disk("/images/a")];
        assert_eq!(devices_of(&there).expect("absolute"), there.devices);
        there.devices = vec![disk("a")];
        let line = check_request(&there).expect_err("relative to what?").to_string();
        assert!(line.contains("home node"), "{line}");
        let mut here = request(0);
        here.devices = vec![disk("a")];
        let expected = std::env::current_dir().expect("a folder").join("a");
        assert_eq!(devices_of(&here).expect("here"), [disk(&expected.to_string_lossy())]);
    }

    #[test]
    fn features_that_not_all_hosts_have_are_named() {
        let mut hosts = surveyed(2);
        let leaf = kvm_cpuid_entry2 { function: 7, ebx: 1 << 5, ..Default::default() };
        hosts[0].kvm.cpuid.push(leaf);
        assert_eq!(dropped_features(&hosts), ["avx2 (not on h1:7070)"]);
        hosts[1].kvm.cpuid.push(leaf);
        assert!(dropped_features(&hosts).is_empty());
    }

    #[test]
    fn shares_never_exceed_what_is_free() {
        assert_eq!(
            shares_within(10 * EXTENT_BYTES, &[4 * EXTENT_BYTES, 9 * EXTENT_BYTES]),
            Some(vec![4 << 21, 6 << 21])
        );
        assert_eq!(shares_within(10 * EXTENT_BYTES, &[EXTENT_BYTES, EXTENT_BYTES]), None);
        assert_eq!(
            shares_within(EXTENT_BYTES, &[EXTENT_BYTES, EXTENT_BYTES]),
            None,
            "a node would have nothing"
        );
        assert_eq!(shares_within(EXTENT_BYTES, &[0, 0]), None);
    }
}
