//! Events: envelope, ids, subject grammar, catalogue and codec (DESIGN 5, DOMAIN 3). A leaf that everyone may use.
//!
//! In reading order: `types` and `lists` (the words), [`geo`], `personal` and [`seal`], `strict` (how a value is read), [`mod@catalogue`] (every event type),
//! `envelope`, `subject`, [`ids`], `codec`, [`trace`], and what tells others of it all: `schema`, `asyncapi`.

mod asyncapi;
pub mod catalogue;
mod codec;
mod envelope;
pub mod geo;
pub mod ids;
mod lists;
mod personal;
mod producer;
mod schema;
pub mod seal;
mod strict;
mod subject;
pub mod trace;
mod types;

pub use asyncapi::asyncapi;
pub use catalogue::*;
pub use codec::*;
pub use envelope::{Base, Event};
pub use geo::{Fix, Place, Point};
pub use lists::*;
pub use personal::{MASK, Personal, Sealed};
pub use producer::Producer;
pub use schema::{fields, schema};
pub use seal::{DataKey, KeyError, Keyring};
pub use subject::Subject;
pub use types::*;
