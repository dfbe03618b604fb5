//! The integration tests: one crate, a module per subject.

mod simulation;
mod site;
mod support;
