//! Process 1: makes the machine usable, says what it is, runs what the kernel's command line orders
//! (`tessera.run=mgs:m=500:n=500,clocks`), says what the kernel's log has against it, and ends as ordered
//! (`tessera.end=poweroff|reboot|panic|shell|stay`).

use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::json::Object;
use crate::orders::{End, Order, Orders};
use crate::{cpus, kmsg, modules, programs, shell};

/// File systems: type, where, and whether it is also the root of device nodes.
const MOUNTS: &[(&CStr, &CStr)] = &[(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev")];
/// Log lines printed at most.
const LOG_LINES: usize = 40;

/// The whole life of process 1. Returns only where ending the machine failed.
pub fn run() -> ExitCode {
    mount_all();
    open_console();
    start_waiting_cpus();
    for trouble in modules::load_all() {
        say(&format!("TESSERA-FAILED {trouble}\n"));
    }
    say_ready();
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let orders = Orders::from_cmdline(&cmdline);
    for order in &orders.programs {
        match order {
            Ok(order) => {
                run_apart(order);
            }
            Err(trouble) => {
                programs::print_trouble("none", &trouble.to_string(), 0.0);
            }
        }
    }
    say_log_problems();
    end(orders.end);
    ExitCode::FAILURE
}

fn mount_all() {
    for (kind, place) in MOUNTS {
        // Any of them may be mounted already (devtmpfs by the kernel itself), so a failure here is none.
        let _ = fs::create_dir_all(place.to_str().unwrap_or("/"));
        // SAFETY: C strings that live for ever; no data.
        unsafe {
            libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null());
        }
    }
}

/// Brings up the CPUs that `maxcpus=` on the command line has kept waiting. (Over several hosts the kernel's own start-up
/// is much faster on one CPU: until the clock is a good one, every CPU's periodic tick writes the same few pages.)
fn start_waiting_cpus() {
    for place in fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten() {
        let online = place.path().join("online");
        if fs::read_to_string(&online).is_ok_and(|state| state.trim() == "0") {
            // One that does not come up shows in the number of CPUs that are reported.
            let _ = fs::write(&online, "1");
        }
    }
}

/// The kernel opens /dev/console for process 1 only where the initramfs has that node.
fn open_console() {
    // SAFETY: a valid path; descriptors 0..2 are replaced by the console.
    unsafe {
        let console = libc::open(c"/dev/console".as_ptr(), libc::O_RDWR);
        if console >= 0 {
            (0..3).for_each(|descriptor| {
                libc::dup2(console, descriptor);
            });
            if console > 2 {
                libc::close(console);
            }
        }
    }
}

/// Prints one piece of text at once.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What the machine looks like from inside.
pub fn describe() -> Object {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
    let mut object = Object::default();
    object.add("nproc", cpus::usable().len()).list("numa", cpus::numa());
    object.text("clocksource", &cpus::clocksource()).float("uptime_s", uptime);
    object
}

fn say_ready() {
    say(&format!("TESSERA-READY {}\n", describe()));
}

/// Runs an order in a child process, so that one that crashes still has its result line and takes nothing
/// with it.
pub fn run_apart(order: &Order) -> bool {
    let start = Instant::now();
    // SAFETY: this process has one thread, so the child may go on as usual.
    let child = unsafe { libc::fork() };
    match child {
        0 => std::process::exit(i32::from(!programs::run_here(order))),
        1.. => {
            let status = wait_for(child);
            if libc::WIFSIGNALED(status) {
                let why = format!("ended by signal {}", libc::WTERMSIG(status));
                return programs::print_trouble(&order.program, &why, start.elapsed().as_secs_f64());
            }
            libc::WEXITSTATUS(status) == 0
        }
        _ => programs::print_trouble(&order.program, &std::io::Error::last_os_error().to_string(), 0.0),
    }
}

/// Waits for this child, and for any orphan that ends meanwhile.
fn wait_for(child: libc::pid_t) -> libc::c_int {
    loop {
        let mut status = 0;
        // SAFETY: writes one status.
        let ended = unsafe { libc::wait(&mut status) };
        if ended == child {
            return status;
        }
        if ended < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return 255 << 8;
        }
    }
}

fn say_log_problems() {
    let problems = kmsg::problems();
    let mut text = format!("TESSERA-LOG-PROBLEMS {}\n", problems.len());
    for line in problems.iter().take(LOG_LINES) {
        text.push_str("TESSERA-LOG-LINE ");
        text.push_str(line);
        text.push('\n');
    }
    say(&text);
}

/// Ends the machine.
pub fn end(how: End) {
    match how {
        End::Shell => shell::run(),
        End::Stay => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        End::PowerOff => reboot(libc::RB_POWER_OFF),
        End::Reboot => reboot(libc::RB_AUTOBOOT),
        End::Panic => panic_kernel(),
    }
}

fn reboot(how: libc::c_int) {
    // SAFETY: no memory arguments; the machine ends.
    unsafe {
        libc::sync();
        libc::reboot(how);
    }
    say(&format!("TESSERA-FAILED reboot({how:#x}): {}\n", std::io::Error::last_os_error()));
}

fn panic_kernel() {
    if let Err(error) = fs::write("/proc/sysrq-trigger", "c") {
        // Process 1 that ends is a panic as well.
        say(&format!("sysrq-trigger: {error}; process 1 ends instead\n"));
        std::process::exit(1);
    }
}
