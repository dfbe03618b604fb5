//! The ends outside that Roadcall calls, played on loopback: real listeners that record what comes and misbehave as told.

pub mod collector;
pub mod front;
pub mod hooks;
pub mod sms;
pub mod smtp;
pub mod stripe;
pub mod web;
