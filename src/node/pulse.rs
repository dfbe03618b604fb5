//! Whether a node gets its work done: every writer is asked through its own queue and answers behind a committed step.
//!
//! An idle writer answers at once. One that is stuck in a step, or whose database takes nothing, does not, and neither
//! does a thread that is gone.

use tokio::sync::{mpsc, oneshot};

use super::run::Node;
use super::writer::Job;

/// Asks the writers of a node. It keeps none of them from ending.
#[derive(Debug, Clone)]
pub struct Pulse(Vec<mpsc::WeakSender<Job>>);

impl Node {
    /// Who asks this node's writers.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        let jobs = self.started.iter().map(|started| started.jobs.downgrade());
        Pulse(jobs.collect())
    }
}

impl Pulse {
    /// Waits until each writer has committed a step that began after the question: for ever, if one is stuck. False when
    /// one has ended.
    pub async fn felt(&self) -> bool {
        // One after the other: the slowest decides in any case.
        for jobs in &self.0 {
            let Some(jobs) = jobs.upgrade() else {
                return false;
            };
            let (beat, felt) = oneshot::channel();
            let sent = jobs.send(Job::Beat(beat)).await;
            // Let go of before the wait: a writer ends when nobody has its queue any more.
            drop(jobs);
            if sent.is_err() || felt.await.is_err() {
                return false;
            }
        }
        true
    }
}
