//! The REST API on a Unix socket (`tessera run --api-socket PATH`).
//!
//! Paths and bodies are Cloud Hypervisor's for what both can do, and Tessera's own verbs are beside them;
//! `docs/api.json` describes them all, and tests hold the server against it.
//!
//! - [`socket`]: where the server listens; `http`: requests and answers on it, on a thread of its own.
//! - [`routes`]: which verb a method and a path mean.
//! - [`body`]: what is in requests and answers; [`config`]: a guest as the API sees it.
//! - [`desk`]: does what is asked. Between the server's threads and the launcher's main thread, which alone starts
//!   guests and sees them end.

pub mod body;
pub mod config;
pub mod desk;
mod http;
pub mod reply;
pub mod routes;
pub mod socket;
#[cfg(test)]
mod tests;

pub use http::{ApiError, ApiServer};
