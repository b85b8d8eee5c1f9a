//! See the library.

use std::process::ExitCode;

use tessera_guest_programs::{init, orders::Order, programs};

const USAGE: &str = "usage: tessera-guest-init --program NAME[:key=value]... | --list
As process 1 it takes its orders from the kernel command line: tessera.run=NAME[:key=value]...[,NAME...]
tessera.end=poweroff|reboot|panic|shell|stay";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--program", order] => match order.parse::<Order>() {
            Ok(order) if programs::run_here(&order) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(trouble) => {
                eprintln!("{trouble}");
                ExitCode::from(2)
            }
        },
        ["--list"] => {
            programs::ALL.iter().for_each(|program| println!("{:10} {}", program.name, program.help));
            ExitCode::SUCCESS
        }
        ["--child", rest @ ..] => programs::spawn::child(rest),
        // The kernel hands over words that it does not know.
        _ if std::process::id() == 1 => init::run(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
