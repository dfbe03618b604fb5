//! Gives what another site lacks, from the archive.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::{Answer, Ask, OF_DEPOT, Question, RANGES_MAX, RESEND, Wanted};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::{Request, Service, depot_command};
use crate::bus::links::{HUB, Link};
use crate::bus::{self, Bus, EVENTS, Stored, StreamState};
use crate::config::Config;
use crate::event::{Producer, ProducerReport};
use crate::node::clock::Clock;
use crate::node::commands::{answer, command};
use crate::node::inquiry::Inquiry;
use crate::node::transfer::Record;
use crate::node::{archive, filters, report, snapshot, status};
use crate::role::permission::{self, Permission, Scope};
use crate::role::{Code, Rejection, RoleName};

/// Bytes of events in one answer, about: a message may have a megabyte.
const ANSWER_BYTES: usize = 256 << 10;
/// Messages in one read.
const PAGE: usize = 500;
/// Reads for one answer: whoever waits for it waits no longer than these take.
const PAGES_MAX: usize = 40;
/// Ids in one answer, about.
const IDS_MAX: usize = 2000;
/// How long it is known how far the roles are.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Answers other sites.
pub struct Server {
    inquiry: Inquiry,
    roles: Vec<RoleName>,
    clock: Clock,
    known: Option<(Duration, Vec<ProducerReport>)>,
}

impl Server {
    /// For a site whose roles `inquiry` may ask.
    #[must_use]
    pub fn new(inquiry: Inquiry, roles: Vec<RoleName>, clock: Clock) -> Self {
        Self {
            inquiry,
            roles,
            clock,
            known: None,
        }
    }

    /// Takes the questions that may come to this site.
    ///
    /// # Errors
    /// The server does not take the subscription.
    pub async fn listen(
        bus: &JetStream,
        service: &Service,
        config: &Config,
    ) -> Result<mpsc::Receiver<Request>, bus::Error> {
        let of_depots = depot_command("*", RESEND);
        let asked = match config.is_hub() {
            true => of_depots.as_str(),
            false => OF_DEPOT,
        };
        bus.listen(service, &config.site.id, &[asked]).await
    }

    /// Works until the service stops.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            let id = self.clock.new_id();
            let reply = match command(&request, id) {
                Err(rejection) => Err(rejection),
                Ok(command) => {
                    let allowed =
                        permission::check(&command.caller, Permission::OpsMeasure, &Scope::Open);
                    match allowed.and_then(|()| status::parse::<Ask>(&command.body)) {
                        Err(rejection) => Err(rejection),
                        Ok(ask) => self.reply(&request, &ask).await,
                    }
                }
            };
            answer(&request, id, reply, self.clock).await;
        }
    }

    async fn reply(&mut self, request: &Request, ask: &Ask) -> Result<Value, Rejection> {
        if let Question::Numbers { ranges, .. } = &ask.question
            && ranges.len() > RANGES_MAX
        {
            let message = format!("has more than {RANGES_MAX}; ask in parts");
            return Err(Rejection::field("ranges", message));
        }
        let (given, depot) = self.given(request).await?;
        let looked = self.look(&given, depot.as_deref(), ask).await;
        let answer = looked.map_err(|error| {
            tracing::warn!(%error, "another site could not be answered what it lacks");
            Rejection::new(Code::ServiceUnavailable, error.to_string())
        })?;
        // Texts and numbers always have a JSON form.
        Ok(serde_json::to_value(answer).unwrap_or(Value::Null))
    }

    /// `depot` is who asks, where that is not the hub.
    async fn look(
        &mut self,
        given: &[String],
        depot: Option<&str>,
        ask: &Ask,
    ) -> Result<Answer, bus::Error> {
        let state = self.inquiry.bus.stream(EVENTS).await?;
        let mut answer = Answer {
            identity: state.identity.0,
            last_seq: state.last_seq,
            ..Answer::default()
        };
        let all_own = format!("roadcall.{}.>", self.inquiry.config.site.id);
        let bus = &self.inquiry.bus;
        match &ask.question {
            Question::Ends if given.contains(&all_own) => {
                answer.producers = self.producers().await?;
            }
            Question::Ends => {}
            Question::Numbers { ranges, from_seq } => {
                let from = match from_seq {
                    0 => first(bus, ranges, &state).await?,
                    seq => *seq,
                };
                (answer.records, answer.next_seq) =
                    numbered(bus, given, &ask.site, ranges, from).await?;
            }
            Question::Unnumbered { from_seq } => {
                (answer.ids, answer.next_seq) =
                    unnumbered(bus, given, &ask.site, *from_seq).await?;
            }
            Question::All { from_seq } => {
                (answer.records, answer.next_seq) = all(bus, given, &ask.site, *from_seq).await?;
            }
            Question::Anew => {
                // A depot alone begins anew, and by its own consumer.
                if let Some(depot) = depot {
                    bus.reset_to(&Link::down(depot, Vec::new()).consumer(), 1)
                        .await?;
                }
            }
            Question::Snapshots => {
                answer.snapshots = snapshot::copies::newest(bus, &snapshot::bucket(depot)).await?;
            }
            Question::Piece { role, id, from_seq } => {
                let bucket = snapshot::bucket(depot);
                (answer.piece, answer.next_seq) =
                    snapshot::copies::piece(bus, &bucket, (*role, *id), *from_seq).await?;
            }
            Question::Places { seqs } => {
                answer.records = at(bus, given, &ask.site, seqs).await?;
            }
        }
        Ok(answer)
    }

    /// The subjects that the asker gets: the hub from a depot the depot's own, a depot what its consumer here lets through and
    /// what is its own. With the depot that asks.
    async fn given(&self, request: &Request) -> Result<(Vec<String>, Option<String>), Rejection> {
        let config = &self.inquiry.config;
        if !config.is_hub() {
            return Ok((Link::up(&config.site.id).gives, None));
        }
        let depot = request.subject.split('.').nth(4).unwrap_or_default();
        let consumer = Link::down(depot, Vec::new()).consumer();
        let asked = self.inquiry.bus.filters(&consumer).await;
        let mut given = asked.map_err(|error| match error {
            bus::Error::Missing(_) => Rejection::new(
                Code::AuthorizationError,
                format!("site {HUB} knows no depot {depot}"),
            ),
            error => Rejection::new(Code::ServiceUnavailable, error.to_string()),
        })?;
        given.extend(Link::up(depot).gives);
        Ok((given, Some(depot.to_owned())))
    }

    async fn producers(&mut self) -> Result<Vec<ProducerReport>, bus::Error> {
        let now = self.clock.steady();
        if let Some((at, known)) = &self.known
            && now.saturating_sub(*at) < KNOWN_FOR
        {
            return Ok(known.clone());
        }
        let known = report::producers(&self.inquiry, &self.roles).await?.1;
        self.known = Some((now, known.clone()));
        Ok(known)
    }
}

/// What the archive has of the ranges, as much as goes into one answer, and where to go on.
async fn numbered(
    bus: &JetStream,
    given: &[String],
    site: &str,
    ranges: &[Wanted],
    mut seq: u64,
) -> Result<(Vec<Record>, Option<u64>), bus::Error> {
    let filter = format!("roadcall.{site}.>");
    let (mut records, mut bytes) = (Vec::new(), 0);
    for _ in 0..PAGES_MAX {
        let page = bus.read(EVENTS, &filter, seq, PAGE, false).await?;
        let mut open: Vec<&Wanted> = ranges.iter().collect();
        for stored in &page {
            seq = stored.seq + 1;
            let Some(made) = Producer::of(&stored.headers.0) else {
                continue;
            };
            // Each role publishes in the order of its numbers.
            let same = |it: &Wanted| it.role == made.role && it.epoch == made.epoch;
            open.retain(|wanted| !(same(wanted) && made.n >= wanted.to));
            let wanted = |it: &Wanted| same(it) && (it.from..=it.to).contains(&made.n);
            if ranges.iter().any(wanted) && filters::passes(given, &stored.subject) {
                bytes += size(stored);
                records.push(Record::of(stored));
            }
            if bytes >= ANSWER_BYTES {
                return Ok((records, Some(seq)));
            }
        }
        // What one page has passed, a later one has no more of.
        if page.len() < PAGE || open.is_empty() {
            return Ok((records, None));
        }
    }
    Ok((records, Some(seq)))
}

/// Everything of a site, as much as goes into one answer, and where to go on.
async fn all(
    bus: &JetStream,
    given: &[String],
    site: &str,
    mut seq: u64,
) -> Result<(Vec<Record>, Option<u64>), bus::Error> {
    let filter = format!("roadcall.{site}.>");
    let (mut records, mut bytes) = (Vec::new(), 0);
    let page = bus.read(EVENTS, &filter, seq.max(1), PAGE, false).await?;
    for stored in &page {
        seq = stored.seq + 1;
        if filters::passes(given, &stored.subject) {
            bytes += size(stored);
            records.push(Record::of(stored));
        }
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    Ok((records, (!page.is_empty()).then_some(seq)))
}

/// Where the earliest of them can be.
async fn first(bus: &JetStream, ranges: &[Wanted], state: &StreamState) -> Result<u64, bus::Error> {
    match ranges.iter().map(|wanted| wanted.since).min().flatten() {
        None => Ok(state.first_seq),
        Some(since) => {
            let ms = since.ms() - archive::CLOCK_SKEW_MS;
            archive::first_at(bus, ms, state.first_seq, state.last_seq + 1).await
        }
    }
}

/// Ids of what no role made, and where to go on.
async fn unnumbered(
    bus: &JetStream,
    given: &[String],
    site: &str,
    mut seq: u64,
) -> Result<(Vec<(u64, String)>, Option<u64>), bus::Error> {
    let filter = format!("roadcall.{site}.>");
    let mut ids = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = bus.read(EVENTS, &filter, seq.max(1), PAGE, true).await?;
        for stored in &page {
            seq = stored.seq + 1;
            let numbered = Producer::of(&stored.headers.0).is_some();
            if let Some(id) = stored.headers.get("Nats-Msg-Id")
                && !numbered
                && filters::passes(given, &stored.subject)
            {
                ids.push((stored.seq, id.to_owned()));
            }
        }
        if page.len() < PAGE {
            return Ok((ids, None));
        }
        if ids.len() >= IDS_MAX {
            break;
        }
    }
    Ok((ids, Some(seq)))
}

/// The events at these places that the asker gets, as many as go into one answer.
async fn at(
    bus: &JetStream,
    given: &[String],
    site: &str,
    seqs: &[u64],
) -> Result<Vec<Record>, bus::Error> {
    let own = format!("roadcall.{site}.");
    let (mut records, mut bytes) = (Vec::new(), 0);
    for seq in seqs.iter().take(IDS_MAX) {
        let Some(stored) = archive::at(bus, *seq).await? else {
            continue;
        };
        if stored.subject.starts_with(&own) && filters::passes(given, &stored.subject) {
            bytes += size(&stored);
            records.push(Record::of(&stored));
        }
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    Ok(records)
}

fn size(stored: &Stored) -> usize {
    let headers = stored.headers.0.iter();
    // As JSON a record is larger than the message.
    2 * stored.body.len()
        + headers
            .map(|(name, value)| name.len() + value.len() + 8)
            .sum::<usize>()
        + stored.subject.len()
        + 128
}
