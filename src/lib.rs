//! Roadcall dispatches roadside help to broken-down trucks.

pub mod bus;
pub mod event;
pub mod node;
pub mod role;
pub mod routing;
pub mod store;
