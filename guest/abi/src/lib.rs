#![no_std]
#![forbid(unsafe_code)]
//! What host and guest agree on.
