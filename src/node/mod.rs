//! The only place that knows role, store and bus together: the engine and what feeds it.
//!
//! In reading order: [`engine`] (inputs to commits), [`writer`] (the thread around it), [`consumer`] and [`commands`]
//! (in), [`relay`] and [`publisher`] (out), [`letter`], [`advisories`], [`owner`], [`clock`]; [`run`] puts the
//! roles that [`registry`] makes together as a running site, `started` each of them, over their [`connections`]. [`status`] is what a role answers about itself, [`inquiry`]
//! asks it; [`processes`] are those of this machine, [`rollout`] brings them a fleet's configuration; [`queues`] and
//! [`story`] put that together with what the broker has. [`pulse`] sees whether it gets its work done; [`resend`] gets what links passed by; [`snapshot`] keeps
//! databases, [`catchup`] lets a restored one come to the present, [`replace`] does it for a whole box. `homes` follows what the hub does for
//! its depots. [`doctor`] says what is wrong with all of it.

pub mod advisories;
pub mod api_calls;
pub mod archive;
pub mod audit;
mod audit_notes;
pub mod bench;
mod carried;
pub mod catchup;
pub mod certificates;
pub mod clock;
pub mod commands;
pub mod connections;
pub mod consumer;
pub mod doctor;
pub mod effects;
pub mod engine;
pub mod eventlog;
pub mod figures;
pub mod filters;
pub mod grants;
mod homes;
pub mod identities;
pub mod import;
pub mod inquiry;
pub mod intake;
pub mod jobs;
pub mod keys;
pub mod latency;
pub mod letter;
pub mod measure;
pub mod metrics;
mod order;
mod origin;
pub mod otp;
pub mod owner;
mod periodic;
pub mod preflight;
pub mod processes;
pub mod publisher;
pub mod pulse;
pub mod queues;
pub mod registry;
pub mod relay;
mod reload;
pub mod replace;
pub mod replay;
mod report;
pub mod resend;
pub mod rollout;
pub mod run;
pub mod sites;
pub mod snapshot;
pub mod started;
pub mod status;
pub mod story;
pub mod switches;
mod thread;
pub mod trace;
pub mod transfer;
pub mod vault;
pub mod writer;
