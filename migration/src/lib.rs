//! Contexts that move between hosts.
