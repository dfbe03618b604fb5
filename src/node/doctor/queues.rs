//! The queues: what is paused, what is not getting on, and the letters.

use std::collections::BTreeMap;

use super::finding::{Findings, Severity, count, span};
use super::roles::Asked;
use crate::node::inquiry::Inquiry;
use crate::node::letter::{self, Letter};
use crate::node::queues::QueueStanding;
use crate::node::status::Wanted;

/// A queue whose oldest event is older has an alarm (DOMAIN 4.4), seconds.
const OLD_SECONDS: u64 = 300;
/// Of a try's words so many are shown.
const SHOWN: usize = 120;

pub(super) async fn look(inquiry: &Inquiry, asked: &[Asked], found: &mut Findings) {
    for one in asked {
        let Some(queue) = &one.queue else { continue };
        if queue.paused_until.is_some() {
            paused(queue, found);
        } else if one.told.is_ok() {
            old(queue, found);
        }
        if queue.dead_letters > 0 {
            match letter::of_queue(&inquiry.bus, &queue.queue).await {
                Ok(letters) => dead(&queue.queue, &letters, found),
                Err(error) => found.unseen(&format!("the letters of {}", queue.queue), error),
            }
        }
    }
}

fn paused(queue: &QueueStanding, found: &mut Findings) {
    let name = &queue.queue;
    let until = queue.paused_until.map(|until| until.to_string());
    let until = until.unwrap_or_default();
    let (severity, waits) = match queue.depth {
        0 => (Severity::Warning, "what comes will wait".to_owned()),
        n => (Severity::Critical, format!("{} wait", count(n, "event"))),
    };
    found
        .add(severity, "queue-paused", name)
        .says(format!("{name} is paused until {until}: {waits}"))
        .seen(format!("CONSUMER.INFO {name}: pause_until {until}"))
        .roadcall(&format!("queue resume {name}"));
}

fn old(queue: &QueueStanding, found: &mut Findings) {
    let Some(age) = queue.oldest_age_seconds.filter(|age| *age > OLD_SECONDS) else {
        return;
    };
    let name = &queue.queue;
    let draft = found
        .add(Severity::Critical, "queue-old", name)
        .says(format!(
            "{name} is not getting on: its oldest event is {} old, {} wait",
            span(age.cast_signed() * 1000),
            count(queue.depth, "event")
        ))
        .seen(format!(
            "delivered to {}, acknowledged to {}, {} in hand, {} waiting in role {}",
            queue.delivered_seq,
            queue.ack_floor_seq,
            queue.in_flight,
            queue.waiting.unwrap_or(0),
            queue.role
        ));
    match queue.oldest_open.as_ref().map(|open| open.wanted) {
        Some(Wanted::Event { event_id }) if queue.waiting.unwrap_or(0) == 0 => {
            draft.roadcall(&format!("explain {event_id}"));
        }
        _ => draft.roadcall(&format!(
            "queue show {name}  # why: the log of role {}; explain EVENT_ID has each try's error",
            queue.role
        )),
    }
}

fn dead(name: &str, letters: &[Letter], found: &mut Findings) {
    let Some(last) = letters.last() else { return };
    let mut reasons: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for letter in letters {
        let reason = (letter.reason.as_str(), letter.detail_type.as_str());
        *reasons.entry(reason).or_default() += 1;
    }
    let commonest = reasons.into_iter().max_by_key(|(_, n)| *n);
    let ((reason, detail_type), n) = commonest.unwrap_or_default();
    let of_reason = |letter: &&Letter| letter.reason.as_str() == reason;
    let tries = letters.iter().rfind(of_reason).unwrap_or(last);
    let words = tries.attempts.last();
    let words = words.map_or("", |attempt| attempt.error.as_str());
    let words: String = words.chars().take(SHOWN).collect();
    found
        .add(Severity::Critical, "letters", name)
        .says(format!(
            "{name} gave {} up, most often ({n}) {detail_type} because of {reason}: {words}",
            count(letters.len() as u64, "event")
        ))
        .seen(format!(
            "stream DLQ: {} of {name}, the last at sequence {} on {}",
            count(letters.len() as u64, "letter"),
            last.seq,
            last.dead_at
        ))
        .roadcall(&format!(
            "dlq list --queue {name}  # when the cause is mended: dlq redrive --queue {name} --all --yes"
        ));
}
