//! `roadcall event publish`: puts one event into the archive, after the same checks that every reader makes.

use std::io::Read;

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::bus::{Bus, EVENTS, Error, Headers, Outgoing};
use crate::cli::Connection;
use crate::cli::client::connect;
use crate::cli::failure::Failure;
use crate::event::{Codec, Event, Id, Subject, Ts, decode, ids, lookup};
use crate::node::clock::Clock;

#[derive(Debug, Args)]
pub(in crate::cli) struct Publish {
    /// The detail-type, like WorkStarted.
    #[arg(long = "type")]
    detail_type: String,
    /// The source, like roadcall.incident.
    #[arg(long)]
    source: String,
    /// The entity key, the last token of the subject.
    #[arg(long)]
    entity: String,
    /// The detail as a JSON object, or - for standard input. eventId, timestamp and version are filled in.
    #[arg(long, default_value = "{}", allow_hyphen_values = true)]
    detail: String,
    /// Gives the event its id: the same key again is the same event.
    #[arg(long)]
    idempotency_key: Option<String>,
}

/// What became of it: the event's id, its sequence, and whether it was there already.
pub(super) async fn publish(connection: &Connection, args: Publish) -> Result<Value, Failure> {
    let config = connection.config()?;
    let event = args.event(&config.site.id)?;
    let bus = connect(&config, "roadcall-cli").await?;
    let subject = event.subject().to_string();
    let id = event.id.to_string();
    let result =
        |seq: u64, duplicate: bool| json!({ "eventId": id, "seq": seq, "duplicate": duplicate });
    // The server forgets ids after the dedup window; the archive does not.
    let mut from = 1;
    while args.idempotency_key.is_some() {
        let page = bus.read(EVENTS, &subject, from, 1000, true).await?;
        let Some(last) = page.last() else { break };
        from = last.seq + 1;
        let same = |headers: &Headers| headers.get("Nats-Msg-Id") == Some(&id);
        if let Some(stored) = page.iter().find(|stored| same(&stored.headers)) {
            return Ok(result(stored.seq, true));
        }
    }
    let body = crate::event::encode(&event, Codec::Json)
        .map_err(|error| Failure::usage(&error.to_string(), "an event has at most 256 KiB"))?;
    let mut headers = Headers::default();
    headers.push("Content-Type", Codec::Json.content_type());
    let message = Outgoing {
        subject,
        headers,
        body: Bytes::from(body),
        msg_id: id.clone(),
        expected_last_subject_seq: None,
    };
    let published = bus.publish(vec![message]).await;
    match (published.acks.first(), published.stopped) {
        (Some(ack), _) => Ok(result(ack.seq, ack.duplicate)),
        (None, Some(error)) => Err(error.into()),
        (None, None) => Err(Error::Unavailable("no ack came".to_owned()).into()),
    }
}

impl Publish {
    /// The event, checked as a reader checks it.
    fn event(&self, site: &str) -> Result<Event, Failure> {
        let subject = self.subject(site)?;
        let mut detail = self.read_detail()?;
        let now = Clock.now();
        let id = match (&self.idempotency_key, detail.get("eventId")) {
            (None, Some(given)) => serde_json::from_value(given.clone()).map_err(|error| {
                Failure::usage(&format!("detail.eventId: {error}"), "leave it out")
            })?,
            (Some(key), _) => keyed(site, &subject, key),
            (None, None) => Clock.new_id(),
        };
        detail.insert("eventId".to_owned(), json!(id));
        let time = detail
            .entry("timestamp")
            .or_insert_with(|| json!(now))
            .clone();
        if let Some(known) = lookup(&self.detail_type) {
            detail
                .entry("version")
                .or_insert_with(|| json!(known.version));
            detail
                .entry(known.entity_field)
                .or_insert_with(|| json!(self.entity));
        }
        let envelope = json!({
            "id": id, "source": self.source, "detail-type": self.detail_type, "time": time, "site": site,
            "resources": crate::event::resources(&detail), "detail": detail,
        });
        let body = envelope.to_string();
        decode(
            &subject.to_string(),
            Some(Codec::Json.content_type()),
            body.as_bytes(),
        )
        .map_err(|error| {
            let help = format!("see roadcall event schema {}", self.detail_type);
            Failure::usage(&format!("the event is not valid: {error}"), &help)
        })
    }

    fn subject(&self, site: &str) -> Result<Subject, Failure> {
        if lookup(&self.detail_type).is_none() {
            return Err(Failure::usage(
                &format!("no event is named '{}'", self.detail_type),
                "see roadcall event catalog",
            ));
        }
        let service = self
            .source
            .strip_prefix("roadcall.")
            .unwrap_or(&self.source);
        let subject = format!(
            "roadcall.{site}.{service}.{}.{}",
            self.detail_type, self.entity
        );
        subject.parse().map_err(|error| {
            Failure::usage(
                &format!("subject {subject}: {error}"),
                "see roadcall event catalog",
            )
        })
    }

    fn read_detail(&self) -> Result<Map<String, Value>, Failure> {
        let mut text = self.detail.clone();
        if text == "-" {
            text.clear();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::other(format!("standard input: {error}"), ""))?;
        }
        serde_json::from_str(&text).map_err(|error| {
            Failure::usage(
                &format!("--detail is not a JSON object: {error}"),
                "quote it: '{\"incidentId\":\"…\"}'",
            )
        })
    }
}

/// The id that a key gives an event: the same key for the same subject is the same event. Its time is that of no clock,
/// so that the second call gets the same.
fn keyed(site: &str, subject: &Subject, key: &str) -> Id {
    let parts: [&[u8]; 4] = [
        b"event.publish",
        site.as_bytes(),
        &subject.to_string().into_bytes(),
        key.as_bytes(),
    ];
    ids::derive_v8(Ts::from_ms(0).ms(), &parts)
}
