//! The baselines: the broker alone, and a loop that somebody would write by hand.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{BACKLOG, Error, Options, database, entity, message, per_second, site};
use crate::bus::jetstream::Form;
use crate::bus::jetstream::raw::{Raw, RawDelivery, RawMessage};
use crate::event::{Base, Event, Id, IncidentRated, RatedBy, Stars, Ts, ids};
use crate::node::clock::Clock;
use crate::store::raw::{RawRow, RawStore};

/// Deliveries in one commit, as the engine's default.
const BATCH: usize = 256;
/// Of the events, one in so many is published singly: with `sync_interval: always` that takes an fsync each.
const SINGLY_SHARE: u64 = 5;

/// Publishes the backlog in batches, and a part as many events again singly. Events a second, singly and in batches.
pub(super) async fn publish(raw: &Raw, options: &Options) -> Result<(u64, u64), Error> {
    let now = Clock.now();
    let batches: Result<Vec<RawMessage>, Error> = (0..options.events)
        .map(|n| message(rated(n, now), options.size))
        .collect();
    let singly: Vec<RawMessage> = batches
        .as_deref()
        .unwrap_or_default()
        .iter()
        .take((options.events / SINGLY_SHARE) as usize)
        .map(|message| RawMessage {
            // A type that no queue of the bench reads.
            subject: message
                .subject
                .replace("IncidentRated", "IncidentCancelled"),
            msg_id: format!("singly-{}", message.msg_id),
            body: message.body.clone(),
        })
        .collect();
    let began = Instant::now();
    raw.publish_singly(&singly).await?;
    let singly = per_second(singly.len() as u64, began.elapsed());
    let batches = batches?;
    let began = Instant::now();
    raw.publish_in_batches(&batches).await?;
    Ok((singly, per_second(options.events, began.elapsed())))
}

/// Event `n` of the backlog.
pub(super) fn rated(n: u64, now: Ts) -> Event {
    rated_about(n, entity(n), now)
}

/// Event `n` about this incident.
pub(super) fn rated_about(n: u64, incident_id: Id, now: Ts) -> Event {
    let detail = IncidentRated {
        incident_id,
        driver_id: incident_id,
        vendor_id: incident_id,
        rated_by: RatedBy::Driver,
        stars: Stars::new(5).expect("five is a number of stars"),
        rated_at: now,
    };
    let base = Base {
        id: ids::derive_v8(now.ms(), &[b"backlog", &n.to_be_bytes()]),
        time: now,
        site: site(),
        home: None,
        cause: None,
        correlation: None,
        metadata: Default::default(),
    };
    Event::build(&detail, base)
}

/// Reads and acknowledges the backlog.
pub(super) async fn fetch_ack(raw: &Raw, options: &Options) -> Result<u64, Error> {
    let mut pull = raw.pull("bench-raw", BACKLOG).await?;
    let began = Instant::now();
    let mut done = 0;
    while done < options.events {
        let taken = pull.next(BATCH).await?;
        done += taken.len() as u64;
        pull.ack(&taken).await?;
    }
    pull.flush().await?;
    Ok(per_second(done, began.elapsed()))
}

#[derive(Deserialize)]
struct Incoming {
    id: String,
    detail: IncomingDetail,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IncomingDetail {
    incident_id: String,
    vendor_id: String,
}

/// The follow-up with the fields that the engine's has.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FollowUp<'a> {
    id: &'a str,
    source: &'a str,
    detail_type: &'a str,
    time: &'a str,
    site: &'a str,
    resources: [String; 1],
    cause: &'a str,
    correlation: &'a str,
    detail: FollowUpDetail<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FollowUpDetail<'a> {
    event_id: &'a str,
    timestamp: &'a str,
    version: &'a str,
    offer_id: &'a str,
    incident_id: &'a str,
    vendor_id: &'a str,
    expired_at: &'a str,
}

/// Fetch a batch, commit its rows, publish its follow-ups in the quicker form, acknowledge; one after the other. What was
/// published is forgotten in the next batch's commit, so that each batch costs one sync.
pub(super) async fn hand_written_loop(
    raw: &Raw,
    options: &Options,
    form: Form,
) -> Result<u64, Error> {
    let mut store = RawStore::open(&database(&options.dir, "hand-written"))?;
    let mut pull = raw.pull("bench-hand-written", BACKLOG).await?;
    let began = Instant::now();
    let mut done = 0;
    while done < options.events {
        let taken = pull.next(BATCH).await?;
        let follow_ups = taken
            .iter()
            .map(follow_up)
            .collect::<Result<Vec<_>, Error>>()?;
        let rows: Vec<RawRow<'_>> = taken
            .iter()
            .zip(&follow_ups)
            .map(|(delivery, (entity, message))| RawRow {
                msg_id: &delivery.msg_id,
                seq: delivery.seq,
                entity,
                follow_up: (&message.subject, &message.msg_id, &message.body),
            })
            .collect();
        store.commit(&rows, done)?;
        let messages: Vec<RawMessage> =
            follow_ups.into_iter().map(|(_, message)| message).collect();
        match form {
            Form::Batches => raw.publish_in_batches(&messages).await?,
            Form::Pipelined => raw.publish_singly(&messages).await?,
        }
        done += taken.len() as u64;
        pull.ack(&taken).await?;
    }
    pull.flush().await?;
    Ok(per_second(done, began.elapsed()))
}

fn follow_up(delivery: &RawDelivery) -> Result<(String, RawMessage), Error> {
    let event: Incoming =
        serde_json::from_slice(&delivery.body).map_err(|error| Error::Bench(error.to_string()))?;
    let now = Clock.now();
    let (id, time) = (
        ids::derive_v8(now.ms(), &[event.id.as_bytes()]).to_string(),
        now.to_string(),
    );
    let entity = event.detail.incident_id;
    let follow_up = FollowUp {
        id: &id,
        source: "roadcall.match",
        detail_type: "OfferExpired",
        time: &time,
        site: "hub",
        resources: [format!("incident/{entity}")],
        cause: &event.id,
        correlation: &entity,
        detail: FollowUpDetail {
            event_id: &id,
            timestamp: &time,
            version: "1.0",
            offer_id: &entity,
            incident_id: &entity,
            vendor_id: &event.detail.vendor_id,
            expired_at: &time,
        },
    };
    let body = serde_json::to_vec(&follow_up).map_err(|error| Error::Bench(error.to_string()))?;
    let message = RawMessage {
        subject: format!("roadcall.hub.match.OfferExpired.{entity}"),
        msg_id: id,
        body: body.into(),
    };
    Ok((entity, message))
}
