//! The integration tests: one crate, a module per subject.

mod advisories;
mod archives;
mod audits;
mod codec;
mod conformance;
mod crash;
mod death;
mod effects;
mod engine;
mod explain;
mod patterns;
mod processes;
mod queues;
mod replay_bounds;
mod replays;
mod replays_die;
mod scenarios;
mod simulation;
mod site;
mod support;
mod tidy;
mod transfers;
mod trouble;
mod vendors;
