//! Asking the hosts what they have to offer, and judging whether a guest can run on them together.

use std::time::Instant;

use super::error::LaunchError;
use super::request::TableWritePolicy;
use crate::control::address::HostAddress;
use crate::control::frame::FrameReader;
use crate::control::hello::Role;
use crate::control::socket::{self, HELLO_LIMIT};
use crate::host::modules::TableWrites;
use crate::host::{HostOffer, KvmFacts, VERSION};

/// A host that can be used, with what it has to offer.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Where its daemon listens.
    pub address: HostAddress,
    /// What it said.
    pub offer: HostOffer,
    /// Its KVM.
    pub kvm: KvmFacts,
}

/// Asks all hosts at the same time.
///
/// # Errors
/// The first host, in order, that cannot be asked.
pub fn ask(hosts: &[HostAddress]) -> Result<Vec<(HostAddress, HostOffer)>, LaunchError> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = hosts.iter().map(|host| (host, scope.spawn(move || ask_one(host)))).collect();
        asked
            .into_iter()
            .map(|(host, thread)| match thread.join() {
                Ok(offer) => Ok((host.clone(), offer?)),
                Err(_) => Err(fail(host, "could not be asked")),
            })
            .collect()
    })
}

fn ask_one(host: &HostAddress) -> Result<HostOffer, LaunchError> {
    let by = Instant::now() + HELLO_LIMIT;
    let stream = socket::dial(host, &Role::Offer, by)
        .map_err(|error| LaunchError::unreachable(&host.to_string(), &error))?;
    FrameReader::new(stream)
        .read(Some(by))
        .map_err(|error| LaunchError::unreachable(&host.to_string(), &error.into()))
}

/// Checks each host alone, and then all of them together. Memory is not looked at.
///
/// # Errors
/// The first thing that rules them out, with its remedy.
pub fn judge(
    offers: Vec<(HostAddress, HostOffer)>,
    table_writes: TableWritePolicy,
    tsc_tolerance_ppm: u32,
) -> Result<Vec<Surveyed>, LaunchError> {
    let spanning = offers.len() > 1;
    let hosts: Vec<Surveyed> =
        offers.into_iter().map(|(address, offer)| usable(address, offer)).collect::<Result<_, _>>()?;
    if spanning {
        for host in &hosts {
            check_tracking(host)?;
            check_table_writes(host, table_writes)?;
        }
        check_addresses(&hosts)?;
        check_vendors(&hosts)?;
        check_frequencies(&hosts, tsc_tolerance_ppm)?;
    }
    Ok(hosts)
}

fn fail(address: &HostAddress, problem: impl Into<String>) -> LaunchError {
    LaunchError::Host { host: format!("host {address}"), problem: problem.into() }
}

/// Whether the host can run any guest.
fn usable(address: HostAddress, offer: HostOffer) -> Result<Surveyed, LaunchError> {
    if offer.version != VERSION {
        let theirs = crate::control::ending::tidy(&offer.version);
        return Err(fail(
            &address,
            format!("runs tessera {theirs}, this is {VERSION}: install the same everywhere"),
        ));
    }
    if offer.guests_free == 0 {
        return Err(fail(
            &address,
            "takes no more guests: stop one, or start its daemon with a greater --max-guests",
        ));
    }
    match offer.kvm.clone() {
        Ok(kvm) if kvm.tsc_khz == 0 => Err(fail(&address, "does not know the frequency of its TSC")),
        Ok(kvm) => Ok(Surveyed { address, offer, kvm }),
        Err(problem) => Err(fail(&address, format!("cannot run guests: {problem}"))),
    }
}

fn check_tracking(host: &Surveyed) -> Result<(), LaunchError> {
    match &host.offer.tracking_problem {
        Some(problem) => Err(fail(
            &host.address,
            format!("cannot share memory: {}", crate::control::ending::tidy(problem)),
        )),
        None => Ok(()),
    }
}

fn check_table_writes(host: &Surveyed, policy: TableWritePolicy) -> Result<(), LaunchError> {
    let kind = host.kvm.kind;
    match (kind.table_writes(), policy) {
        (TableWrites::No, _) | (_, TableWritePolicy::Allow) => Ok(()),
        (TableWrites::Yes { remedy }, TableWritePolicy::Refuse) => Err(fail(
            &host.address,
            format!(
                "has {kind}, with which hosts would take the guest's page tables from each other \
                 without end: run `{remedy}` there, or try with --allow-table-page-writes"
            ),
        )),
        (TableWrites::Unknown, TableWritePolicy::Refuse) => Err(fail(
            &host.address,
            format!(
                "has {kind}: whether its processor writes to page tables that it walks is not known; \
                 if it does not, run with --allow-table-page-writes"
            ),
        )),
    }
}

/// Nodes connect to each other by the addresses that the launcher was given.
fn check_addresses(hosts: &[Surveyed]) -> Result<(), LaunchError> {
    let one_machine = hosts.iter().all(|host| host.offer.boot_id == hosts[0].offer.boot_id);
    match hosts.iter().find(|host| host.address.is_loopback()) {
        Some(host) if !one_machine => Err(fail(
            &host.address,
            "has a loopback address, under which the other hosts do not find it: \
             name it in --hosts as they do",
        )),
        _ => Ok(()),
    }
}

fn check_vendors(hosts: &[Surveyed]) -> Result<(), LaunchError> {
    let vendor = |host: &Surveyed| {
        let leaf = host.kvm.cpuid.iter().find(|leaf| leaf.function == 0);
        let words = leaf.map_or([0; 3], |leaf| [leaf.ebx, leaf.edx, leaf.ecx]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        crate::control::ending::tidy(&String::from_utf8_lossy(&bytes))
    };
    let first = vendor(&hosts[0]);
    match hosts.iter().find(|host| vendor(host) != first) {
        Some(other) => Err(LaunchError::Hosts(format!(
            "the CPUs of {} ({first}) and {} ({}) are of different vendors: no guest can run on both",
            hosts[0].address,
            other.address,
            vendor(other)
        ))),
        None => Ok(()),
    }
}

fn check_frequencies(hosts: &[Surveyed], tolerance_ppm: u32) -> Result<(), LaunchError> {
    let first = hosts[0].kvm.tsc_khz;
    for host in hosts {
        let apart_ppm = u64::from(host.kvm.tsc_khz.abs_diff(first)) * 1_000_000 / u64::from(first);
        if apart_ppm > u64::from(tolerance_ppm) {
            return Err(LaunchError::Hosts(format!(
                "the TSCs of {} ({first} kHz) and {} ({} kHz) differ by {apart_ppm} ppm, \
                 and the guest's clock cannot follow both: use hosts of one frequency, \
                 or accept it with --tsc-tolerance-ppm {apart_ppm}",
                hosts[0].address, host.address, host.kvm.tsc_khz
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::host::{KvmKind, KvmProblem};
    use kvm_bindings::kvm_cpuid_entry2;

    /// A host that is fit for everything.
    pub(in super::super) fn fit(address: &str) -> (HostAddress, HostOffer) {
        let leaf0 =
            kvm_cpuid_entry2 { ebx: 0x756e_6547, edx: 0x4965_6e69, ecx: 0x6c65_746e, ..Default::default() };
        let kvm = KvmFacts { kind: KvmKind::Software, tsc_khz: 2_000_000, cpuid: vec![leaf0] };
        let offer = HostOffer {
            version: VERSION.into(),
            hostname: address.into(),
            boot_id: address.into(),
            cpus: 2,
            memory_free_bytes: 1 << 30,
            memory_total_bytes: 2 << 30,
            kvm: Ok(kvm),
            tracking_problem: None,
            guests_free: 1,
        };
        (address.parse().expect("address"), offer)
    }

    fn refusal(change: impl Fn(&mut HostAddress, &mut HostOffer)) -> String {
        let mut hosts = vec![fit("a"), fit("b")];
        assert!(judge(hosts.clone(), TableWritePolicy::Refuse, 250).is_ok());
        let (address, offer) = &mut hosts[1];
        change(address, offer);
        judge(hosts, TableWritePolicy::Refuse, 250).expect_err("refused").to_string()
    }

    fn kvm(offer: &mut HostOffer) -> &mut KvmFacts {
        offer.kvm.as_mut().expect("usable")
    }

    #[test]
    fn each_refusal_names_the_host_and_the_remedy() {
        let cases: [(String, &[&str]); 11] = [
            (
                refusal(|_, o| o.version = "9.9.9".into()),
                &["host b:7070 runs tessera 9.9.9", "install the same"],
            ),
            (refusal(|_, o| o.guests_free = 0), &["host b:7070", "--max-guests"]),
            (
                refusal(|_, o| o.kvm = Err(KvmProblem::Missing)),
                &["host b:7070", "no /dev/kvm", "load kvm_intel or kvm_amd"],
            ),
            (
                refusal(|_, o| o.kvm = Err(KvmProblem::Permission)),
                &["host b:7070", "permission", "usermod -aG kvm"],
            ),
            (refusal(|_, o| o.kvm = Err(KvmProblem::Lacks("X".into()))), &["host b:7070", "lacks X"]),
            (
                refusal(|_, o| o.tracking_problem = Some("use sysctl".into())),
                &["host b:7070 cannot share", "use sysctl"],
            ),
            (
                refusal(|_, o| kvm(o).kind = KvmKind::Amd { npt: Some(true) }),
                &["host b:7070 has kvm_amd npt=1", "modprobe kvm_amd npt=0", "--allow-table-page-writes"],
            ),
            (
                refusal(|_, o| kvm(o).kind = KvmKind::Intel { ept: Some(true), eptad: Some(true) }),
                &["host b:7070 has kvm_intel ept=1 eptad=1", "modprobe kvm_intel eptad=0"],
            ),
            (refusal(|_, o| kvm(o).cpuid[0].ebx = 0x6874_7541), &["a:7070", "b:7070", "different vendors"]),
            (refusal(|_, o| kvm(o).tsc_khz = 2_001_000), &["2000000 kHz", "2001000 kHz", "500 ppm"]),
            (
                refusal(|a, _| *a = "127.0.0.1:7071".parse().expect("address")),
                &["host 127.0.0.1:7071", "loopback", "--hosts"],
            ),
        ];
        for (line, parts) in cases {
            for part in parts {
                assert!(line.contains(part), "{part:?} is not in {line:?}");
            }
            assert!(!line.contains('\n'), "{line:?}");
        }
    }

    #[test]
    fn a_guest_on_one_host_need_not_care_about_sharing() {
        let (address, mut offer) = fit("127.0.0.1");
        offer.tracking_problem = Some("none".into());
        kvm(&mut offer).kind = KvmKind::Amd { npt: Some(true) };
        assert!(judge(vec![(address, offer)], TableWritePolicy::Refuse, 0).is_ok());
    }

    #[test]
    fn overrides_are_followed() {
        let mut hosts = vec![fit("a"), fit("b")];
        kvm(&mut hosts[0].1).kind = KvmKind::Amd { npt: Some(true) };
        kvm(&mut hosts[1].1).kind = KvmKind::Unknown;
        kvm(&mut hosts[1].1).tsc_khz = 2_001_000;
        assert!(judge(hosts.clone(), TableWritePolicy::Refuse, 500).is_err());
        assert!(judge(hosts.clone(), TableWritePolicy::Allow, 499).is_err());
        assert!(judge(hosts, TableWritePolicy::Allow, 500).is_ok());
    }

    #[test]
    fn two_nodes_of_one_machine_may_use_loopback() {
        let mut hosts = vec![fit("127.0.0.1:1"), fit("127.0.0.1:2")];
        hosts[1].1.boot_id = hosts[0].1.boot_id.clone();
        assert!(judge(hosts, TableWritePolicy::Refuse, 250).is_ok());
    }
}
