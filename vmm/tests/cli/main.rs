//! The `tessera` command as users have it: its messages, its exit statuses, and what is left after the worst.
//!
//! Guests here are a few instructions long (see [`support::program`]), so that each test takes a moment; they
//! need /dev/kvm.

mod api;
mod bad_inputs;
mod console;
mod cuts;
mod endings;
mod faults;
mod pagers;
mod port;
mod spanning;
mod support;
mod terminal;
