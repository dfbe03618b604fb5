//! Roadcall dispatches roadside help to broken-down trucks.

pub mod broker;
pub mod bus;
pub mod cli;
pub mod config;
pub mod error;
pub mod event;
pub mod gateway;
pub mod node;
pub mod ops;
pub mod provider;
pub mod role;
pub mod routing;
pub mod store;
pub mod tls;
