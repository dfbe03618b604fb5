//! The ends outside that Roadcall calls, as real listeners on the loopback.

pub mod stripe;
