//! The only place that knows role, store and bus together: the engine and what feeds it.
//!
//! In reading order: [`engine`] (inputs to commits), [`writer`] (the thread around it), [`consumer`] and [`commands`]
//! (in), [`relay`] and [`publisher`] (out), [`letter`], [`advisories`], [`owner`], [`clock`]; [`run`] puts the
//! roles that [`registry`] makes together as a running site.

pub mod advisories;
pub mod archive;
pub mod bench;
pub mod clock;
pub mod commands;
pub mod consumer;
pub mod effects;
pub mod engine;
pub mod latency;
pub mod letter;
pub mod owner;
pub mod preflight;
pub mod publisher;
pub mod registry;
pub mod relay;
mod reload;
pub mod run;
mod thread;
pub mod writer;
