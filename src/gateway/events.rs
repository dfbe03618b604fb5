//! `GET /v1/events`: events as they are archived, pushed as server-sent events; `Last-Event-ID` is a stream sequence and goes
//! on behind it. Everybody gets what is his (DOMAIN 1.2), a company's dispatcher what is the company's.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::Door;
use super::commands;
use super::limits::person;
use super::problem::Problem;
use crate::bus::{Bus, EVENTS, Stored};
use crate::event::{Actor, Event, EventType, Id, Keyring, catalogue, decode, fields, to_value};
use crate::role::permission::{Caller, Permission, person_of};

/// How often the archive is looked at while somebody listens; well under the 2 s of DOMAIN 5.4.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a quiet stream says that it is there (DOMAIN 5.4).
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Events in one read.
const PAGE: usize = 200;

/// Who listens, and how far the archive is.
pub(super) struct Live {
    per_person_max: usize,
    listening: Arc<Mutex<BTreeMap<String, usize>>>,
    last_seq: watch::Sender<u64>,
    /// Detail-types whose events name a company, where they belong to one.
    of_companies: BTreeSet<&'static str>,
}

impl Live {
    pub(super) fn new(per_person_max: usize) -> Self {
        let names_company = |row: &&EventType| fields(row).contains("companyId");
        let types = catalogue().filter(names_company);
        Self {
            per_person_max,
            listening: Arc::default(),
            last_seq: watch::Sender::new(0),
            of_companies: types.map(|row| row.detail_type).collect(),
        }
    }

    fn take(&self, who: String) -> Result<Place, Problem> {
        let mut listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = listening.entry(who.clone()).or_default();
        if *count >= self.per_person_max {
            return Err(Problem::too_many("event streams at once", 30));
        }
        *count += 1;
        Ok(Place {
            who,
            listening: Arc::clone(&self.listening),
        })
    }

    fn anybody(&self) -> bool {
        !self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

/// One listener's place, given back when he goes.
struct Place {
    who: String,
    listening: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = listening.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                listening.remove(&self.who);
            }
        }
    }
}

/// Looks how far the archive is, once for all listeners, until told to stop.
pub(super) async fn watch(door: Arc<Door>) {
    loop {
        tokio::select! {
            () = door.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !door.live.anybody() {
            continue;
        }
        // A broker that does not answer is tried again at the next look; streams wait meanwhile.
        if let Ok(state) = door.bus.stream(EVENTS).await {
            door.live
                .last_seq
                .send_if_modified(|seq| std::mem::replace(seq, state.last_seq) != state.last_seq);
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only this incident's events.
    incident_id: Option<Id>,
    /// Only these detail-types, with commas between.
    types: Option<String>,
}

/// The handler.
pub(super) async fn stream(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<SocketAddr>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let opened = open(&door, peer, &headers, wanted).await;
    match opened {
        Ok(listener) => {
            let stop = door.stop.clone();
            let events = told(listener).take_until(stop.cancelled_owned());
            Sse::new(events)
                .keep_alive(KeepAlive::new().interval(HEARTBEAT))
                .into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

async fn open(
    door: &Arc<Door>,
    peer: SocketAddr,
    headers: &HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Listener, Problem> {
    door.limits.address(peer.ip())?;
    let caller = door.identities.caller(headers).await?.ok_or_else(|| {
        Problem::unauthenticated("this needs a token: 'Authorization: Bearer <token>'")
    })?;
    let who = person(person_of(&caller.actor), peer.ip());
    door.limits.command(&who, Permission::IncidentView)?;
    let Query(wanted) =
        wanted.map_err(|error| Problem::field("query", error.body_text().to_lowercase()))?;
    if let Some(incident) = wanted.incident_id {
        let body = Map::from_iter([("incidentId".to_owned(), incident.to_string().into())]);
        // Refuses whoever may not see it.
        commands::call(door, "incident.get", &caller, headers, body).await?;
    }
    let place = door.live.take(who)?;
    let state = door.bus.stream(EVENTS).await.map_err(|error| {
        tracing::warn!(%error, "the archive can't be read");
        Problem::new(
            crate::role::Code::ServiceUnavailable,
            "events can't be read right now, try again",
        )
    })?;
    let after = match headers.get("last-event-id") {
        None => state.last_seq,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Problem::field("Last-Event-ID", "not a sequence of the archive"))?,
    };
    let gone = (after + 1 < state.first_seq).then_some((after + 1, state.first_seq - 1));
    let types = wanted.types.as_deref().map(|types| {
        let names = types.split(',').map(str::trim);
        names.map(str::to_owned).collect()
    });
    Ok(Listener {
        subject: match wanted.incident_id {
            Some(incident) => format!("roadcall.*.*.*.{incident}"),
            None => "roadcall.>".to_owned(),
        },
        incident: wanted.incident_id.is_some(),
        types,
        from: (after + 1).max(state.first_seq),
        gone,
        last_seq: door.live.last_seq.subscribe(),
        door: Arc::clone(door),
        caller,
        _place: place,
    })
}

/// Somebody who listens.
struct Listener {
    door: Arc<Door>,
    caller: Caller,
    subject: String,
    /// Whether it is one incident, which he was found to be allowed to see.
    incident: bool,
    types: Option<BTreeSet<String>>,
    from: u64,
    /// Sequences that he wanted and the archive no longer has.
    gone: Option<(u64, u64)>,
    last_seq: watch::Receiver<u64>,
    _place: Place,
}

fn told(listener: Listener) -> impl Stream<Item = Result<Sent, Infallible>> {
    stream::unfold(listener, async |mut listener| {
        let page = listener.next().await;
        Some((stream::iter(page.into_iter().map(Ok)), listener))
    })
    .flatten()
}

impl Listener {
    /// The next events for him; waits until the archive has grown.
    async fn next(&mut self) -> Vec<Sent> {
        if let Some((from, to)) = self.gone.take() {
            let data = json!({ "fromSeq": from, "toSeq": to });
            return vec![Sent::default().event("gone").data(data.to_string())];
        }
        loop {
            let read = self
                .door
                .bus
                .read(EVENTS, &self.subject, self.from, PAGE, false)
                .await
                .unwrap_or_default();
            let Some(last) = read.last() else {
                let from = self.from;
                // The sender lives as long as the door.
                let grown = self.last_seq.wait_for(|last| *last >= from).await;
                match grown.map(|last| *last) {
                    // Nothing of his up to there; a subject's own events may lie far apart.
                    Ok(last) => {
                        self.from = self.passed(last).await;
                        continue;
                    }
                    Err(_) => return Vec::new(),
                }
            };
            self.from = last.seq + 1;
            let his: Vec<(u64, Event)> = read
                .iter()
                .filter_map(|stored| Some((stored.seq, self.his(stored)?)))
                .collect();
            if !his.is_empty() {
                return self.sent(his).await;
            }
        }
    }

    /// Where to go on when the archive has grown to `last`: behind it, unless one of his is there by now.
    async fn passed(&self, last: u64) -> u64 {
        let found = self
            .door
            .bus
            .read(EVENTS, &self.subject, self.from, 1, true)
            .await;
        match found.as_deref() {
            Ok([]) => last + 1,
            Ok([first, ..]) => first.seq,
            Err(_) => self.from,
        }
    }

    /// Events as he sees them. Looking for a key may block, so it is done where that hurts nobody.
    async fn sent(&self, mut events: Vec<(u64, Event)>) -> Vec<Sent> {
        let keys = self.door.keys.clone();
        let opened = tokio::task::spawn_blocking(move || {
            open_all(&mut events, keys.as_deref());
            events
        });
        let events = opened.await.unwrap_or_else(|error| {
            tracing::error!(%error, "events can't be shown");
            Vec::new()
        });
        let sent = events.iter().map(|(seq, event)| {
            Sent::default()
                .id(seq.to_string())
                .event(&event.detail_type)
                .data(to_value(event).to_string())
        });
        sent.collect()
    }

    /// The event that is stored there, if it is one that he wants and may see.
    fn his(&self, stored: &Stored) -> Option<Event> {
        let event = decode(
            &stored.subject,
            stored.headers.get("Content-Type"),
            &stored.body,
        )
        .ok()?;
        if let Some(types) = &self.types
            && !types.contains(&event.detail_type)
        {
            return None;
        }
        let value = to_value(&event);
        let seen = Seen {
            source: value["source"].as_str().unwrap_or_default(),
            detail_type: &event.detail_type,
            detail: &value["detail"],
        };
        visible(
            &self.caller,
            &seen,
            self.incident,
            &self.door.live.of_companies,
        )
        .then_some(event)
    }
}

/// Opens what is personal in events. Behind a key that can't be had now everything is masked: where things stand is told without
/// waiting, and what is masked can be asked for by a command.
fn open_all(events: &mut [(u64, Event)], mut keys: Option<&dyn Keyring>) {
    for (seq, event) in events {
        if let Err(error) = event.open(keys) {
            tracing::warn!(seq, %error, "an event is shown with personal fields masked");
            keys = None;
        }
    }
}

/// An event, as far as it matters to who may see it.
struct Seen<'e> {
    source: &'e str,
    detail_type: &'e str,
    detail: &'e Value,
}

impl Seen<'_> {
    fn names(&self, field: &str, id: Option<Id>) -> bool {
        let named = self.detail.get(field).and_then(Value::as_str);
        named == id.map(|id| id.to_string()).as_deref()
    }

    fn of(&self, services: &[&str]) -> bool {
        services.iter().any(|service| {
            self.source
                .strip_prefix("roadcall.")
                .is_some_and(|own| own == *service)
        })
    }
}

/// Whether `caller` may see the event; `incident`: it is of an incident that he may see.
fn visible(
    caller: &Caller,
    event: &Seen<'_>,
    incident: bool,
    of_companies: &BTreeSet<&'static str>,
) -> bool {
    match &caller.actor {
        Actor::Admin(_) | Actor::Operator(_) => true,
        // What others are offered and what the back office thinks of a payment is not for him.
        Actor::Driver(id) => {
            let his = event.names("driverId", Some(*id));
            (event.of(&["incident", "tracking"]) && (his || incident))
                || (his && ["OfferAccepted", "PaymentRequiresAction"].contains(&event.detail_type))
        }
        Actor::Vendor(id) => {
            let told_of_payments = [
                "PaymentApproved",
                "PaymentRejected",
                "PaymentCompleted",
                "PaymentRefunded",
            ];
            event.names("vendorId", Some(*id))
                && (event.of(&["incident", "vendor", "match", "tracking"])
                    || told_of_payments.contains(&event.detail_type))
        }
        Actor::Dispatcher(_) => {
            let companys = of_companies.contains(event.detail_type)
                && event.names("companyId", caller.company)
                && event.of(&["incident", "match", "payment", "telephony"]);
            companys || (incident && event.of(&["incident", "match", "tracking", "payment"]))
        }
        Actor::System(_) | Actor::Call(_) | Actor::Provider(_) => false,
    }
}

#[cfg(test)]
mod tests;
