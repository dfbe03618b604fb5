//! temp
pub mod token;
