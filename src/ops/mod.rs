//! What concerns the machine around the program, not the business in it.

pub mod certificates;
pub mod identities;
pub mod ownership;
pub mod private;
pub mod systemd;
