//! What crosses a connection between launcher, daemons, workers and the command line.
//!
//! Every connection starts with one [`hello::Role`] and one [`hello::Reply`]; what follows depends on the
//! role:
//!
//! ```text
//! launcher -> worker   orders::Order      worker -> launcher   orders::Report
//! worker  <-> worker   peer::PeerFrame    (on a line::Line; the data connection is the pager's)
//! CLI      -> worker   ask::Ask           worker -> CLI        ask::Answer
//! launcher -> daemon   (nothing)          daemon -> launcher   crate::host::HostOffer, ask::GuestList
//! ```
//!
//! All of them are [`frame`]s: a length, then postcard. Nothing in here trusts a length or a value that came
//! from outside: a frame is refused before memory is taken for it, and a decoded value is checked by its
//! `check`.

pub mod address;
pub mod ask;
pub mod byte_queue;
pub mod devices;
pub mod ending;
pub mod frame;
pub mod guest;
pub mod hello;
pub mod lifeline;
pub mod line;
pub mod orders;
pub mod peer;
pub mod question;
pub mod socket;
pub mod stats;
#[cfg(test)]
mod tests;
