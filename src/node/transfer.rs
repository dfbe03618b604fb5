//! Archived events out of a broker and into another one: as records that keep subject, headers and ids, and a look at
//! whether an archive is whole.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::letter::hex;
use crate::bus::{self, Bus, EVENTS, Headers, Outgoing, Stored};
use crate::event::{Codec, Ts, decode, encode, from_value, to_value};

/// Messages in one read or publish.
const PAGE: usize = 1000;
/// Header of what was imported: it is handled as a replay is, without calls outside.
pub const IMPORTED: &str = "Roadcall-Imported";
/// Header of what another site sent again because its link had passed it by: it is handled as what comes by the link.
pub const RESENT: &str = "Roadcall-Resent";
/// Findings that are spelt out at the most.
const FINDINGS_MAX: usize = 100;

/// One archived event, outside a broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its sequence in the archive that it comes from.
    pub seq: u64,
    /// Its subject.
    pub subject: String,
    /// When that archive took it.
    pub received_at: Ts,
    /// Its headers.
    pub headers: Map<String, Value>,
    /// The event, where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Value>,
    /// Its bytes in hexadecimal, where not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hex: Option<String>,
}

impl Record {
    /// Of a message of the archive.
    #[must_use]
    pub fn of(stored: &Stored) -> Self {
        let content_type = stored.headers.get("Content-Type");
        let event = decode(&stored.subject, content_type, &stored.body).ok();
        let headers = stored.headers.0.iter();
        Self {
            seq: stored.seq,
            subject: stored.subject.clone(),
            received_at: Ts::from_ms(stored.received_at_ms),
            headers: headers
                .map(|(name, value)| (name.clone(), Value::from(value.clone())))
                .collect(),
            body_hex: event.is_none().then(|| hex(&stored.body)),
            event: event.as_ref().map(to_value),
        }
    }

    /// As it is published again: under its old id, with `mark` ([`IMPORTED`] or [`RESENT`]) as a header.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn outgoing(&self, mark: &str) -> Result<Outgoing, String> {
        let text = |name: &str| self.headers.get(name).and_then(Value::as_str);
        let codec = match text("Content-Type") {
            Some("application/cbor") => Codec::Cbor,
            _ => Codec::Json,
        };
        let (body, id) = match (&self.event, &self.body_hex) {
            (Some(event), None) => {
                let event =
                    from_value(&self.subject, event).map_err(|error| format!("event: {error}"))?;
                let body = encode(&event, codec).map_err(|error| format!("event: {error}"))?;
                (body, event.id.to_string())
            }
            (None, Some(hex)) => {
                let body = unhex(hex).ok_or("bodyHex: no hexadecimal")?;
                let id = text("Nats-Msg-Id")
                    .ok_or("headers: an unreadable event needs its Nats-Msg-Id")?;
                (body, id.to_owned())
            }
            _ => return Err("has neither event nor bodyHex alone".to_owned()),
        };
        let mut headers = Headers::default();
        for (name, value) in &self.headers {
            // Those of the server's are about the way it once came: a batch that is over, an expectation that held then.
            if let Some(value) = value.as_str().filter(|_| !name.starts_with("Nats-")) {
                headers.push(name.clone(), value);
            }
        }
        if headers.get(mark).is_none() {
            headers.push(mark, self.seq.to_string());
        }
        Ok(Outgoing {
            subject: self.subject.clone(),
            headers,
            body: Bytes::from(body),
            msg_id: id,
            expected_last_subject_seq: None,
        })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| (byte as char).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
    rest.is_empty()
        .then(|| pairs.iter().map(byte).collect())
        .flatten()
}

/// Gives `note` the message id of everything that `stream` holds from `from` on; returns where to read on later.
///
/// # Errors
/// Any bus error.
pub async fn each_id<B: Bus>(
    bus: &B,
    stream: &str,
    mut from: u64,
    mut note: impl FnMut(&str),
) -> Result<u64, bus::Error> {
    loop {
        let page = bus.read(stream, ">", from, PAGE, true).await?;
        let Some(last) = page.last() else {
            return Ok(from);
        };
        from = last.seq + 1;
        let ids = page
            .iter()
            .filter_map(|stored| stored.headers.get("Nats-Msg-Id"));
        ids.for_each(&mut note);
    }
}

/// What a look over the whole archive found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// First sequence.
    pub from_seq: u64,
    /// Last sequence.
    pub to_seq: u64,
    /// Messages that were read.
    pub messages: u64,
    /// Messages that are no event, or whose message id is another one.
    pub invalid: u64,
    /// Messages whose id another one has as well.
    pub duplicate_ids: u64,
    /// Sequences that are missing between the first and the last, as ranges.
    pub missing: Vec<(u64, u64)>,
    /// The first of what is wrong, in words.
    pub findings: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.invalid == 0 && self.duplicate_ids == 0 && self.missing.is_empty()
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// Reads the whole archive and checks ids, schemas and gaps. `tell` gets the number of messages read so far.
///
/// # Errors
/// Any bus error.
pub async fn verify<B: Bus>(bus: &B, tell: impl Fn(u64)) -> Result<Verification, bus::Error> {
    let state = bus.stream(EVENTS).await?;
    let mut found = Verification {
        from_seq: state.first_seq,
        to_seq: state.last_seq,
        ..Verification::default()
    };
    let (mut seen, mut next) = (HashSet::new(), state.first_seq.max(1));
    while next <= state.last_seq {
        let page = bus.read(EVENTS, "roadcall.>", next, PAGE, false).await?;
        let Some(last) = page.last().map(|stored| stored.seq) else {
            break;
        };
        for stored in page.iter().filter(|stored| stored.seq <= state.last_seq) {
            if stored.seq > next {
                found.missing.push((next, stored.seq - 1));
            }
            next = stored.seq + 1;
            found.messages += 1;
            let content_type = stored.headers.get("Content-Type");
            let msg_id = stored.headers.get("Nats-Msg-Id");
            match decode(&stored.subject, content_type, &stored.body) {
                Ok(event) => {
                    let id = event.id.to_string();
                    if msg_id.is_some_and(|msg_id| msg_id != id) {
                        found.invalid += 1;
                        found.find(format!(
                            "seq {}: its message id is not its event's",
                            stored.seq
                        ));
                    }
                    if !seen.insert(*event.id.uuid().as_bytes()) {
                        found.duplicate_ids += 1;
                        found.find(format!("seq {}: event {id} is there twice", stored.seq));
                    }
                }
                Err(error) => {
                    found.invalid += 1;
                    found.find(format!("seq {}: {error}", stored.seq));
                }
            }
        }
        next = next.max(last + 1);
        tell(found.messages);
    }
    if state.messages > 0 && next <= state.last_seq {
        found.missing.push((next, state.last_seq));
    }
    Ok(found)
}
