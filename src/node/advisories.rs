//! Advisories: what the server says about deliveries that no engine ever answered, turned into work for the audit role.
//!
//! The server counts tries for readers that die before they can record, or that are not our engine, and tells of an
//! exhausted or terminated delivery in an advisory, with nothing but the sequence. The audit role looks the event up
//! and makes the letter, through its engine and outbox ([`Work::Exhausted`]); the advisory is acknowledged behind that
//! commit, so a crash anywhere only brings it again. An advisory is a hint and can be lost: `roadcall audit` is the
//! proof (DESIGN promise 3).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::archive;
use super::clock::Clock;
use super::commands::{answer, command};
use super::engine::{Exhausted, Work};
use super::letter::{Dead, Letter};
use super::writer::Job;
use crate::bus::jetstream::service::Request;
use crate::bus::{ADVISORY_QUEUE, AckToken, Bus, DLQ, Delivery, EVENTS, Error, Headers, Stored};
use crate::event::{DeadReason, Event, Site, Ts, decode};
use crate::role::permission::{self, Permission, Scope};
use crate::role::{Code, Command, Rejection, RoleName};
use crate::store::Attempt;

/// How long one fetch waits for a first advisory.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// Advisories in hand at the most.
const AT_ONCE: usize = 64;
/// How far the clocks of two servers of a cluster are believed to be apart at the most, milliseconds.
const CLOCK_SKEW_MS: i64 = 1_000;

/// Whose advisories are read.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The site.
    pub site: Site,
    /// The JetStream domain of its server, if it has one.
    pub domain: Option<String>,
}

/// The server's words (BROKER 3). It sends more than this.
#[derive(Debug, Deserialize)]
struct Advisory {
    #[serde(rename = "type")]
    kind: String,
    timestamp: Ts,
    stream: String,
    consumer: String,
    stream_seq: u64,
    #[serde(default)]
    deliveries: u32,
    reason: Option<String>,
    domain: Option<String>,
}

/// The command by which `roadcall audit` has letters made for what no advisory told of.
pub const FORGOTTEN: &str = "audit.forgotten";
/// Sequences in one such command at the most.
const FORGOTTEN_MAX: usize = 5000;

/// Sequences of a queue that were delivered, are in nobody's hands, and have no outcome: no advisory of theirs arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forgotten {
    /// The queue.
    pub queue: String,
    /// The sequences.
    pub seqs: Vec<u64>,
}

/// Makes the letters that are asked for until the service stops. What was asked for is answered at once; the letters
/// follow through the outbox, once each, however often it is asked again.
pub async fn make_forgotten<B: Bus>(
    bus: B,
    watch: Watch,
    mut requests: mpsc::Receiver<Request>,
    jobs: mpsc::Sender<Job>,
    clock: Clock,
) {
    while let Some(request) = requests.recv().await {
        let id = clock.new_id();
        let forgotten = command(&request, id).and_then(|command| asked_for(&command));
        let reply = forgotten
            .as_ref()
            .map(|forgotten| json!({ "letters": forgotten.seqs.len() }));
        answer(&request, id, reply.map_err(Clone::clone), clock).await;
        let Ok(forgotten) = forgotten else { continue };
        for seq in forgotten.seqs {
            match forgotten_letter(&bus, &watch, &forgotten.queue, seq, clock.now()).await {
                Ok(Some(exhausted)) => {
                    if jobs
                        .send(Job::Do(Work::Exhausted(exhausted)))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Ok(None) => {}
                // The next audit finds it again.
                Err(error) => tracing::warn!(seq, %error, "a letter could not be made"),
            }
        }
    }
}

fn asked_for(command: &Command) -> Result<Forgotten, Rejection> {
    permission::check(&command.caller, Permission::AdminOps, &Scope::Open)?;
    let forgotten: Forgotten = serde_json::from_value(Value::Object(command.body.clone()))
        .map_err(|error| Rejection::new(Code::ValidationError, error.to_string()))?;
    let known = |role: &RoleName| role.queue() == Some(forgotten.queue.as_str());
    if !RoleName::ALL.iter().any(known) {
        return Err(Rejection::field("queue", "is no queue"));
    }
    if forgotten.seqs.len() > FORGOTTEN_MAX {
        let message = format!("has more than {FORGOTTEN_MAX}; ask in parts");
        return Err(Rejection::field("seqs", message));
    }
    Ok(forgotten)
}

/// As if the server had said it: the letter of what nobody answered, unless it has one.
async fn forgotten_letter<B: Bus>(
    bus: &B,
    watch: &Watch,
    queue: &str,
    seq: u64,
    now: Ts,
) -> Result<Option<Box<Exhausted>>, Error> {
    let state = bus.stream(EVENTS).await?;
    let Some(stored) = archive::at(bus, seq).await? else {
        return Ok(None);
    };
    let advisory = Advisory {
        kind: "forgotten".to_owned(),
        timestamp: now,
        stream: EVENTS.to_owned(),
        consumer: queue.to_owned(),
        stream_seq: seq,
        deliveries: 1,
        reason: None,
        domain: None,
    };
    let nothing = Delivery {
        stream: state.identity,
        seq,
        subject: String::new(),
        headers: Headers::default(),
        body: bytes::Bytes::new(),
        delivered: 0,
        received_at_ms: now.ms(),
        token: AckToken::default(),
    };
    let exhausted = exhausted(watch, &advisory, &stored, state.identity.0, &nothing, false);
    Ok(match kept_letter(bus, &exhausted.letter.subject()).await? {
        Kept::None => Some(Box::new(exhausted)),
        Kept::Retired | Kept::Of(_) => None,
    })
}

/// What an advisory comes to.
enum Found {
    /// A letter is wanting.
    Exhausted(Box<Exhausted>),
    /// There is nothing to do, for this reason.
    Nothing(&'static str),
}

/// Reads advisories until told to stop. One at a time: they are rare, and a letter of the one before counts.
pub async fn watch<B: Bus>(bus: B, watch: Watch, jobs: mpsc::Sender<Job>, stop: CancellationToken) {
    let mut delay = Duration::from_millis(100);
    let mut in_hand = std::collections::VecDeque::new();
    loop {
        let step = async {
            if in_hand.is_empty() {
                in_hand.extend(bus.fetch(ADVISORY_QUEUE, AT_ONCE, FETCH_WAIT).await?);
            }
            while let Some(delivery) = in_hand.front() {
                if !pass_on(&bus, &watch, delivery, &jobs).await? {
                    return Ok::<_, Error>(false);
                }
                in_hand.pop_front();
            }
            Ok(true)
        };
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = step => result,
        };
        match result {
            Ok(true) => delay = Duration::from_millis(100),
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "advisories can't be read, trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(5)),
                }
            }
        }
    }
}

/// False when the writer is gone.
async fn pass_on<B: Bus>(
    bus: &B,
    watch: &Watch,
    delivery: &Delivery,
    jobs: &mpsc::Sender<Job>,
) -> Result<bool, Error> {
    match look_into(bus, watch, delivery).await? {
        Found::Exhausted(exhausted) => {
            Ok(jobs.send(Job::Do(Work::Exhausted(exhausted))).await.is_ok())
        }
        Found::Nothing(why) => {
            tracing::info!(seq = delivery.seq, why, "an advisory makes no letter");
            bus.ack(vec![delivery.token.clone()]).await.map(|()| true)
        }
    }
}

async fn look_into<B: Bus>(bus: &B, watch: &Watch, delivery: &Delivery) -> Result<Found, Error> {
    let Ok(advisory) = serde_json::from_slice::<Advisory>(&delivery.body) else {
        return Ok(Found::Nothing("it can't be read"));
    };
    if let Some(why) = not_ours(watch, &advisory) {
        return Ok(Found::Nothing(why));
    }
    let state = bus.stream(EVENTS).await?;
    if advisory.stream_seq > state.last_seq {
        return Ok(Found::Nothing(
            "the archive was rolled back behind it; what was lost comes again under another sequence",
        ));
    }
    let Some(stored) = archive::at(bus, advisory.stream_seq).await? else {
        return Ok(Found::Nothing("the archive no longer has its event"));
    };
    if stored.received_at_ms > advisory.timestamp.ms() + CLOCK_SKEW_MS {
        return Ok(Found::Nothing(
            "its sequence was given out again after it; what was lost comes again under another one",
        ));
    }
    let mut exhausted = exhausted(watch, &advisory, &stored, state.identity.0, delivery, false);
    match kept_letter(bus, &exhausted.letter.subject()).await? {
        Kept::None => {}
        Kept::Retired => return Ok(Found::Nothing("its letter was redriven or purged")),
        Kept::Of(event_id) if event_id == exhausted.letter.event_id => {
            return Ok(Found::Nothing("it has a letter"));
        }
        Kept::Of(_) => {
            exhausted = self::exhausted(watch, &advisory, &stored, state.identity.0, delivery, true)
        }
    }
    Ok(Found::Exhausted(Box::new(exhausted)))
}

fn not_ours(watch: &Watch, advisory: &Advisory) -> Option<&'static str> {
    let foreign =
        matches!((&watch.domain, &advisory.domain), (Some(ours), Some(its)) if ours != its);
    if foreign {
        return Some("it is another site's");
    }
    if advisory.stream != EVENTS {
        return Some("it is of another stream");
    }
    let ours = |role: &RoleName| role.queue() == Some(advisory.consumer.as_str());
    (!RoleName::ALL.iter().any(ours)).then_some("its consumer is no queue")
}

/// What `DLQ` holds under a subject.
enum Kept {
    None,
    Retired,
    Of(String),
}

async fn kept_letter<B: Bus>(bus: &B, subject: &str) -> Result<Kept, Error> {
    let stored = bus.read(DLQ, subject, 1, 1, false).await?;
    let Some(stored) = stored.first() else {
        return Ok(Kept::None);
    };
    if stored.body.is_empty() {
        return Ok(Kept::Retired);
    }
    let letter: Option<Letter> = serde_json::from_slice(&stored.body).ok();
    Ok(Kept::Of(
        letter.map(|letter| letter.event_id).unwrap_or_default(),
    ))
}

fn exhausted(
    watch: &Watch,
    advisory: &Advisory,
    stored: &Stored,
    stream_id: i64,
    delivery: &Delivery,
    sequence_reused: bool,
) -> Exhausted {
    let event = decode(
        &stored.subject,
        stored.headers.get("Content-Type"),
        &stored.body,
    )
    .ok();
    let deliveries = advisory.deliveries.max(1);
    let said = if advisory.kind.ends_with("terminated") {
        let reason = advisory.reason.as_deref().unwrap_or("no reason given");
        format!("a reader of the queue terminated it: {reason}")
    } else if advisory.kind == "forgotten" {
        "handed out, and no reader of the queue ever answered; the audit found it".to_owned()
    } else {
        format!("handed out {deliveries} times, and no reader of the queue ever answered")
    };
    // When the queue first had it nobody recorded; not before the archive did.
    let first_seen = Ts::from_ms(stored.received_at_ms);
    let mut letter = Letter::of(Dead {
        site: &watch.site,
        queue: &advisory.consumer,
        stream_id,
        stream_seq: advisory.stream_seq,
        event: event.as_ref(),
        subject: &stored.subject,
        headers: &stored.headers.0,
        body: &stored.body,
        attempts: vec![Attempt {
            at: advisory.timestamp.to_string(),
            error: said.clone(),
        }],
        reason: DeadReason::DeliveryExhausted,
        first_seen_at: first_seen.to_string(),
        dead_at: advisory.timestamp.to_string(),
        sequence_reused,
    });
    letter.deliveries = deliveries;
    Exhausted {
        letter,
        cause: event.map(|event: Event| event.id),
        said,
        first_seen,
        advisory_stream: delivery.stream.0,
        advisory_seq: delivery.seq,
        token: delivery.token.clone(),
    }
}
