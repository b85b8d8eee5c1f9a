//! Verbs and options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::device_options;
use super::key_values::{self, KeyValues};
use super::Failure;
use crate::control::address::HostAddress;
use crate::control::guest::{
    GuestName, LinkSpec, Transport, BUSY_POLL_US_MAX, LEASE_US_MAX, LOST_AFTER_MS_DEFAULT, LOST_AFTER_MS_MAX,
    LOST_AFTER_MS_MIN, STRIPE_MIB_DEFAULT, STRIPE_MIB_MAX, STRIPE_MIB_MIN,
};
use crate::cpuid::AsyncFaults;
use crate::daemon::GUESTS_MAX_DEFAULT;
use crate::launch::request::{
    CpuRequest, EventFormat, MemoryRequest, OnReboot, PagerRequest, RunRequest, TableWritePolicy,
};
use crate::launch::FirstGuest;

/// Makes several Linux hosts into one machine
#[derive(Debug, Parser)]
#[command(name = "tessera", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Example, on hosts a and b, then anywhere:\n  \
    tessera node --listen 0.0.0.0:7070 --public\n  \
    tessera run --hosts a,b --kernel vmlinuz --initramfs initrd.img --cpus boot=4 --memory size=4G")]
pub struct Cli {
    /// Tell more on standard error; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// How to write log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What to log, by module: `warn,tessera_vmm::worker=debug`
    #[arg(long, env = "TESSERA_LOG", global = true, hide = true)]
    pub log_filter: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The verb whose options can be in a file.
pub const RUN: &str = "run";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon that lets this host take part in guests
    Node(NodeArgs),
    /// Run one node of a guest (started by the daemon)
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Run a guest on one or several hosts and be its console
    Run(Box<RunArgs>),
    /// List the guests of which a host runs a part
    List(ListArgs),
    /// See and move vCPUs
    Vcpu(VcpuArgs),
    /// Show what the nodes of a guest have done
    Stats(QueryArgs),
    /// Stop a guest
    Stop(StopArgs),
    /// See a guest's devices
    Device(DeviceArgs),
    /// Press a guest's power button: it is asked to switch itself off
    PowerButton(PowerButtonArgs),
    /// Print completions for bash
    #[command(after_help = "Example:\n  tessera completions > /etc/bash_completion.d/tessera")]
    Completions,
}

/// Options of `node`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tessera node --listen 10.0.0.1:7070 --public\n\n\
    SIGTERM and Ctrl-C stop all guests and leave nothing behind.")]
pub struct NodeArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
    pub listen: HostAddress,
    /// Allow an address that other machines can reach. Nodes do not authenticate each other yet: whoever
    /// reaches the port can run guests here and read their memory
    #[arg(long)]
    pub public: bool,
    /// Most guests at a time
    #[arg(long, value_name = "N", default_value_t = GUESTS_MAX_DEFAULT as u16)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_guests: u16,
}

/// Options of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The launcher's connection
    #[arg(long)]
    pub launcher_fd: i32,
    /// The lifeline to the daemon
    #[arg(long)]
    pub lifeline_fd: i32,
}

/// Options of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tessera run --kernel vmlinuz --initramfs initrd.img --memory size=1G\n  \
    tessera run --hosts a,b:7071 --kernel vmlinuz --cpus boot=4 --memory per-host=[1G,3G]\n  \
    tessera run --config guest.toml\n\n\
    On a terminal, Ctrl-A x quits; Ctrl-A Ctrl-A is one Ctrl-A for the guest.\n\n\
    Exit status: 0 the guest powered off, or the payload passed; 1 not started, or a node failed; \
    10 reset (with --on-reboot exit); 11 the guest panicked; 12 a node was lost; 13 stopped by others; \
    21 to 120 the payload ended with code 1 to 100 (more counts as 100); 130 interrupted.")]
pub struct RunArgs {
    /// What to call the guest
    #[arg(long)]
    pub name: Option<GuestName>,
    /// Hosts with a daemon, in the order of the guest's nodes; none: this machine alone, without a daemon
    #[arg(long, value_name = "HOST[:PORT],...", value_delimiter = ',')]
    pub hosts: Vec<HostAddress>,
    /// Options from a file in TOML, or in JSON if its name ends so; those given here replace them
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// bzImage (vmlinuz), or ELF file for x86-64
    #[arg(long, value_name = "FILE", required_unless_present_any = ["config", "api_socket"])]
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line; what the guest must know is put in front of it
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    pub cmdline: String,
    /// vCPUs, and how many start on each host
    #[arg(long, value_name = "boot=N[,per-host=[N,...]]")]
    pub cpus: Option<KeyValues>,
    /// Memory, and how much of it each host contributes (K, M, G, T: powers of 1024)
    #[arg(long, value_name = "size=N[,per-host=[N,...]]")]
    pub memory: Option<KeyValues>,
    /// Disks: images or block devices, by absolute paths on the first host; may be given several times
    #[arg(long, num_args = 1..)]
    #[arg(value_name = "path=FILE[,readonly=on][,serial=TEXT][,image_type=raw|qcow2][,backing_files=on]")]
    pub disk: Vec<KeyValues>,
    /// Network cards on tap devices, or on sockets where passt listens; may be given several times
    #[arg(long, value_name = "tap=NAME|socket=FILE[,mac=ADDRESS]", num_args = 1..)]
    pub net: Vec<KeyValues>,
    /// A source of random numbers, /dev/urandom unless given
    #[arg(long, value_name = "src=FILE", num_args = 0..=1, default_missing_value = "src=/dev/urandom")]
    pub rng: Option<KeyValues>,
    /// A virtio console (hvc0) besides the serial one: `tty` prints here, and has the keyboard
    #[arg(long, value_name = "off|null|tty|file=PATH")]
    pub console: Option<String>,
    /// Sockets between guest and host: `socket` reaches the guest's ports, `socket` and `_PORT` are the host's
    #[arg(long, value_name = "cid=N,socket=FILE")]
    pub vsock: Option<KeyValues>,
    /// Folders of the first host, which the guest mounts (type 9p); may be given several times
    #[arg(long, value_name = "path=FOLDER,tag=NAME[,readonly=on]", num_args = 1..)]
    pub fs: Vec<KeyValues>,
    /// Serve the REST API on a Unix socket; without --kernel it creates the guest
    #[arg(long, value_name = "FILE")]
    pub api_socket: Option<PathBuf>,
    /// For how long a host may keep a page that it was granted, in microseconds
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(..=i64::from(LEASE_US_MAX)))]
    pub lease_us: Option<u32>,
    /// After how many milliseconds a node that is silent, or cannot be connected to again, is lost
    #[arg(long, value_name = "MS", default_value_t = LOST_AFTER_MS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(LOST_AFTER_MS_MIN)..=i64::from(LOST_AFTER_MS_MAX)))]
    pub lost_after_ms: u32,
    /// What pages go over between hosts: `auto` is shared memory between nodes on one machine, and TCP between others
    #[arg(long, value_enum, default_value_t = LinksChoice::Auto, value_name = "WHAT")]
    pub links: LinksChoice,
    /// For how many microseconds after each event the nodes look for the next one without sleeping. Takes a processor of
    /// each host while pages come; left out on hosts that have no more than the guest's vCPUs may fill
    #[arg(long, value_name = "US", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=i64::from(BUSY_POLL_US_MAX)))]
    pub busy_poll_us: u32,
    /// How many pagers each host has for the guest's memory: threads that serve page faults, each its own share of memory.
    /// Unless given: one for every four processors of the smallest host, at most four; one where a host shadows page tables.
    /// Fewer where memory has fewer pieces of 64 MiB
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=tessera_dsm::SHARDS_MAX as i64))]
    pub pagers: Option<u8>,
    /// The least MiB of memory that are one pager's
    #[arg(long, value_name = "MIB", default_value_t = STRIPE_MIB_DEFAULT, hide = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(STRIPE_MIB_MIN)..=i64::from(STRIPE_MIB_MAX)))]
    pub stripe_mib: u32,
    /// Where to write a report in JSON when the guest has ended
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// What a reset of the guest does
    #[arg(long, value_enum, default_value_t = RebootChoice::Restart, value_name = "WHAT")]
    pub on_reboot: RebootChoice,
    /// Tell starts and ends as JSON, one object a line, on standard error
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub events: Option<EventChoice>,
    /// Span hosts even if their processors write to guest page tables that they only walk
    #[arg(long)]
    pub allow_table_page_writes: bool,
    /// By how many parts in a million the hosts' TSC frequencies may differ
    #[arg(long, value_name = "PPM", default_value_t = 250)]
    pub tsc_tolerance_ppm: u32,
    /// For a Linux guest, time passes so many times slower than on the wall. For emulated hosts: so slow a machine is
    /// otherwise busy with nothing but its timer interrupts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub slow_clock: u32,
    /// Offer asynchronous page faults: the guest runs another task while a page travels. Loads then take pages as stores do
    #[arg(long)]
    pub async_faults: bool,
}

/// Choices of `--links`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LinksChoice {
    /// Shared memory where two nodes are on one machine and it works, else TCP
    Auto,
    /// TCP, also between nodes on one machine
    Tcp,
    /// Shared memory: all hosts must be one machine
    Shared,
}

impl From<LinksChoice> for Transport {
    fn from(choice: LinksChoice) -> Self {
        match choice {
            LinksChoice::Auto => Transport::Auto,
            LinksChoice::Tcp => Transport::Tcp,
            LinksChoice::Shared => Transport::Shared,
        }
    }
}

/// Choices of `--on-reboot`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RebootChoice {
    /// Start the guest anew
    Restart,
    /// End with status 10
    Exit,
}

/// Choices of `--events`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum EventChoice {
    /// One object a line
    Json,
}

impl RunArgs {
    /// Whether the API's users find a guest that runs.
    pub fn first_guest(&self) -> FirstGuest {
        match self.kernel {
            Some(_) => FirstGuest::Given,
            None => FirstGuest::None,
        }
    }

    /// The request that these options make.
    pub fn request(&self, worker_arguments: Vec<String>) -> Result<RunRequest, Failure> {
        let mut cpus = CpuRequest::default();
        if let Some(values) = &self.cpus {
            let values = values.expect("--cpus", &["boot", "per-host"])?;
            cpus.boot = values.one("boot", key_values::count)?;
            cpus.per_host = values.list("per-host", key_values::count)?;
        }
        let mut memory = MemoryRequest::default();
        if let Some(values) = &self.memory {
            let values = values.expect("--memory", &["size", "per-host"])?;
            memory.size_bytes = values.one("size", key_values::size)?;
            memory.per_host_bytes = values.list("per-host", key_values::size)?;
        }
        Ok(RunRequest {
            name: self.name.clone(),
            hosts: self.hosts.clone(),
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
            cmdline: self.cmdline.clone(),
            cpus,
            memory,
            devices: device_options::devices(self)?,
            lease_us: self.lease_us,
            links: LinkSpec {
                transport: self.links.into(),
                lost_after_ms: self.lost_after_ms,
                busy_poll_us: self.busy_poll_us,
            },
            pagers: PagerRequest { most: self.pagers, stripe_mib: self.stripe_mib },
            report: self.report.clone(),
            on_reboot: match self.on_reboot {
                RebootChoice::Restart => OnReboot::Restart,
                RebootChoice::Exit => OnReboot::Exit,
            },
            events: match self.events {
                Some(EventChoice::Json) => EventFormat::Json,
                None => EventFormat::Log,
            },
            table_writes: match self.allow_table_page_writes {
                true => TableWritePolicy::Allow,
                false => TableWritePolicy::Refuse,
            },
            tsc_tolerance_ppm: self.tsc_tolerance_ppm,
            slow_clock: self.slow_clock,
            async_faults: match self.async_faults {
                true => AsyncFaults::Offered,
                false => AsyncFaults::Hidden,
            },
            worker_arguments,
        })
    }
}

/// Which daemon to ask.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// A host that runs a part of the guest
    #[arg(long, value_name = "HOST[:PORT]", default_value = "127.0.0.1:7070", env = "TESSERA_HOST")]
    pub host: HostAddress,
}

/// Which guest, and how to print.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tessera stats --host a --guest web --json")]
pub struct QueryArgs {
    /// Which daemon
    #[command(flatten)]
    pub at: HostArgs,
    /// The guest; only needed where several run
    #[arg(long, value_name = "NAME")]
    pub guest: Option<GuestName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `list`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tessera list --host a")]
pub struct ListArgs {
    /// Which daemon
    #[command(flatten)]
    pub at: HostArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `stop`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tessera stop --host a --guest web")]
pub struct StopArgs {
    /// Which daemon
    #[command(flatten)]
    pub at: HostArgs,
    /// The guest; only needed where several run
    #[arg(long, value_name = "NAME")]
    pub guest: Option<GuestName>,
}

/// Verbs of `device`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tessera device list --host a")]
pub struct DeviceArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: DeviceVerb,
}

/// Verbs of `device`.
#[derive(Debug, Subcommand)]
pub enum DeviceVerb {
    /// Show where each device is and what of its work crossed hosts
    #[command(after_help = "Example:\n  tessera device list --host a")]
    List(QueryArgs),
}

/// Options of `power-button`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tessera power-button --host a --guest web\n\n\
    The guest decides what it does: a Linux that listens (systemd-logind, acpid) powers off in order.")]
pub struct PowerButtonArgs {
    /// Which daemon
    #[command(flatten)]
    pub at: HostArgs,
    /// The guest; only needed where several run
    #[arg(long, value_name = "NAME")]
    pub guest: Option<GuestName>,
}

/// Verbs of `vcpu`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tessera vcpu move 1 --to b")]
pub struct VcpuArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: VcpuVerb,
}

/// Verbs of `vcpu`.
#[derive(Debug, Subcommand)]
pub enum VcpuVerb {
    /// Show where each vCPU is
    #[command(after_help = "Example:\n  tessera vcpu list --host a")]
    List(QueryArgs),
    /// Move a vCPU to another node while it runs
    #[command(after_help = "Example:\n  tessera vcpu move 1 --to b --host a")]
    Move(MoveArgs),
}

/// Options of `vcpu move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The vCPU's number
    #[arg(value_name = "ID")]
    pub vcpu: u32,
    /// Where to: a node's number, or its host's name or address
    #[arg(long, value_name = "NODE|HOST")]
    pub to: String,
    /// Which guest, and how to print
    #[command(flatten)]
    pub query: QueryArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::devices::{
        ConsoleSpec, DeviceSpec, DiskAccess, DiskFormat, DiskSpec, NetLink, RngSpec,
    };
    use clap::CommandFactory;

    fn request(line: &str) -> Result<RunRequest, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Verb::Run(run) = cli.verb else { panic!("not run") };
        run.request(vec![]).map_err(|failure| failure.line)
    }

    #[test]
    fn the_definition_is_sound_and_every_verb_has_an_example() {
        Cli::command().debug_assert();
        fn check(command: &clap::Command) {
            if !command.is_hide_set() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{} has no example", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn a_full_command_line_is_understood() {
        let request = request(
            "tessera run --name g --hosts a,b:1 --kernel k --initramfs i --cmdline -x \
             --cpus boot=4,per-host=[1,3] --memory size=2G,per-host=[512M,1536M] --lease-us 100 --lost-after-ms 9000 --links tcp --busy-poll-us 50 --pagers 3 --stripe-mib 4 --report r --on-reboot exit --events json \
             --allow-table-page-writes --tsc-tolerance-ppm 5 --slow-clock 3 --async-faults",
        )
        .expect("valid");
        assert_eq!(request.hosts, ["a:7070".parse().expect("a"), "b:1".parse().expect("b")]);
        assert_eq!(request.cpus, CpuRequest { boot: Some(4), per_host: vec![1, 3] });
        assert_eq!(request.memory.size_bytes, Some(2 << 30));
        assert_eq!(request.memory.per_host_bytes, [512 << 20, 1536 << 20]);
        assert_eq!((request.cmdline.as_str(), request.lease_us), ("-x", Some(100)));
        assert_eq!(
            request.links,
            LinkSpec { transport: Transport::Tcp, lost_after_ms: 9000, busy_poll_us: 50 }
        );
        assert_eq!(request.pagers, PagerRequest { most: Some(3), stripe_mib: 4 });
        assert_eq!((request.on_reboot, request.events), (OnReboot::Exit, EventFormat::Json));
        assert_eq!((request.table_writes, request.tsc_tolerance_ppm), (TableWritePolicy::Allow, 5));
        assert_eq!((request.slow_clock, request.async_faults), (3, AsyncFaults::Offered));
    }

    #[test]
    fn devices_come_in_the_order_in_which_they_are_given() {
        let request =
            request("tessera run --kernel k --rng src=/r --console file=/l --disk path=/a path=/b,readonly=on --disk path=/c,serial=s")
                .expect("valid");
        let disk = |path: &str, access, serial: &str| {
            let format = DiskFormat::Unsaid;
            DeviceSpec::Disk(DiskSpec { path: path.into(), format, access, serial: serial.into() })
        };
        assert_eq!(
            request.devices,
            [
                disk("/a", DiskAccess::ReadWrite, ""),
                disk("/b", DiskAccess::ReadOnly, ""),
                disk("/c", DiskAccess::ReadWrite, "s"),
                DeviceSpec::Rng(RngSpec { source: "/r".into() }),
                DeviceSpec::Console(ConsoleSpec::File("/l".into())),
            ]
        );
        let formats: Vec<DiskFormat> =
            request_devices("--disk path=/a,image_type=raw path=/b,image_type=qcow2,backing_files=off path=/c,image_type=qcow2,backing_files=on")
                .into_iter()
                .map(|device| match device {
                    DeviceSpec::Disk(disk) => disk.format,
                    other => panic!("{other:?}"),
                })
                .collect();
        assert_eq!(formats, [DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Qcow2OnOthers]);
        let cards = request_devices("--net tap=t0,mac=52:54:00:12:34:56 socket=/s");
        let [DeviceSpec::Net(first), DeviceSpec::Net(second)] = &cards[..] else { panic!("{cards:?}") };
        assert_eq!(
            (&first.link, first.address),
            (&NetLink::Tap("t0".into()), [0x52, 0x54, 0, 0x12, 0x34, 0x56])
        );
        assert_eq!(second.link, NetLink::Socket("/s".into()));
        assert_eq!(second.address[0] & 3, 2, "made up: locally administered, of one card");
        let source = |text: &str| DeviceSpec::Rng(RngSpec { source: text.into() });
        assert_eq!(request_devices("--rng"), [source("/dev/urandom")]);
        let consoles = |choice| request_devices(&format!("--console {choice}"));
        assert_eq!(consoles("off"), []);
        assert_eq!(consoles("tty"), [DeviceSpec::Console(ConsoleSpec::Launcher)]);
        assert_eq!(consoles("null"), [DeviceSpec::Console(ConsoleSpec::Nowhere)]);
    }

    fn request_devices(arguments: &str) -> Vec<DeviceSpec> {
        request(&format!("tessera run --kernel k {arguments}")).expect("valid").devices
    }

    #[test]
    fn wrong_values_are_refused() {
        for (arguments, part) in [
            ("--cpus boot=x", "--cpus: boot=x"),
            ("--cpus boots=1", "--cpus: there is no \"boots\""),
            ("--memory size=2Q", "--memory: size=2Q"),
            ("--memory size=1,size=2", "twice"),
            ("--memory size", "size"),
            ("--memory per-host=[1G", "bracket"),
            ("--hosts a,,b", "hosts"),
            ("--lease-us 9999999", "9999999"),
            ("--lost-after-ms 1999", "1999"),
            ("--pagers 0", "0 is not in 1..=8"),
            ("--pagers 9", "9 is not in 1..=8"),
            ("--pagers two", "--pagers"),
            ("--stripe-mib 1", "1 is not in 2..="),
            ("--name a/b", "name"),
            ("--disk readonly=on", "--disk: path= is missing"),
            ("--disk path=a,readonly=maybe", "--disk: readonly=maybe: this is neither on nor off"),
            ("--net mac=52:54:00:12:34:56", "--net: one of tap= and socket= is needed"),
            ("--net tap=t,mac=1", "--net: mac=1: this is no hardware address"),
            ("--console pty", "--console: pty is none of off, null, tty, file=PATH"),
            ("--console file=", "--console: file= is none of"),
            ("--rng path=a", "--rng: there is no \"path\""),
            ("--disk path=a,image_type=vhd", "--disk: image_type=vhd: this is neither raw nor qcow2"),
            ("--disk path=a,backing_files=on", "--disk: backing_files=on needs image_type=qcow2"),
            ("--vsock socket=a", "--vsock: cid= is missing"),
            ("--vsock cid=3", "--vsock: socket= is missing"),
            ("--disk path=a,image=b", "--disk: there is no \"image\""),
        ] {
            let line = request(&format!("tessera run --kernel k {arguments}")).expect_err("refused");
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }
}
