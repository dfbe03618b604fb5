//! The only place that knows role, store and bus together.

pub mod engine;
pub mod letter;
pub mod relay;
