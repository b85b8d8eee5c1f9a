//! The per-node state machine.
