//! Programs for the guest.
fn main() {}
