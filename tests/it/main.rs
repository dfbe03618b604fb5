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
mod messages;
mod patterns;
mod processes;
mod queues;
mod replays;
mod scenarios;
mod simulation;
mod site;
mod support;
mod tidy;
mod trouble;
mod vendors;
