//! What the demo shows while it runs: the archive's events in plain words, and a bar for each drive on a terminal.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::cli::failure::Failure;
use crate::cli::output::say;
use crate::event::{Event, Id, Known, TrackingUpdated, decode, to_value};

/// With more incidents than this, position updates and bars would hide the rest.
const FEW: u32 = 3;

/// The screen.
pub(super) struct Show {
    json: bool,
    few: bool,
    bars: Option<MultiProgress>,
    drives: HashMap<Id, Drive>,
}

struct Drive {
    bar: ProgressBar,
    miles_at_start: f64,
}

impl Show {
    pub(super) fn new(json: bool, incidents: u32) -> Self {
        let few = incidents <= FEW;
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        Self {
            json,
            few,
            bars: (few && terminal && !json).then(MultiProgress::new),
            drives: HashMap::new(),
        }
    }

    /// Prints events as they reach the archive, until `last()` gives a sequence and everything up to it is printed.
    ///
    /// # Errors
    /// [`Failure::Closed`] when nobody reads any more.
    pub(super) async fn run(
        mut self,
        bus: JetStream,
        last: impl Fn() -> Option<u64>,
    ) -> Result<(), Failure> {
        let mut from = 1;
        loop {
            let last = last();
            let stored = bus.read(EVENTS, "roadcall.>", from, 500, false).await;
            let stored = stored.unwrap_or_default();
            for message in &stored {
                from = message.seq + 1;
                let content_type = message.headers.get("Content-Type");
                let Ok(event) = decode(&message.subject, content_type, &message.body) else {
                    continue;
                };
                if self.json {
                    say(json!({ "seq": message.seq, "event": to_value(&event) }))?;
                } else {
                    self.tell(&event)?;
                }
            }
            if last.is_some_and(|last| from > last) {
                return Ok(());
            }
            if stored.is_empty() {
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
    }

    fn tell(&mut self, event: &Event) -> Result<(), Failure> {
        if let Some(Known::TrackingUpdated(update)) = event.known() {
            if self.bars.is_some() {
                self.drive(update);
                return Ok(());
            }
            if !self.few {
                return Ok(());
            }
        }
        let Some(words) = words(event) else {
            return Ok(());
        };
        if let Some(Known::VendorArrived(arrived)) = event.known()
            && let Some(drive) = self.drives.remove(&arrived.incident_id)
        {
            drive.bar.finish_and_clear();
        }
        let line = format!("{}  {words}", event.time.datetime().format("%H:%M:%S%.3f"));
        match &self.bars {
            Some(bars) => bars.suspend(|| say(line)),
            None => say(line),
        }
    }

    fn drive(&mut self, update: &TrackingUpdated) {
        let Some(bars) = &self.bars else { return };
        let miles = update.eta.distance_miles.get();
        let drive = self.drives.entry(update.incident_id).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:40}] {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            let bar = bars.add(ProgressBar::new(1000)).with_style(style);
            bar.set_prefix(format!("incident {}", update.incident_id.short()));
            Drive {
                bar,
                miles_at_start: miles.max(0.1),
            }
        });
        let driven = (1.0 - miles / drive.miles_at_start).clamp(0.0, 1.0);
        drive.bar.set_position((driven * 1000.0) as u64);
        drive.bar.set_message(format!(
            "{miles:.2} miles to go, {} min",
            update.eta.minutes
        ));
    }
}

fn words(event: &Event) -> Option<String> {
    let told = |incident: &Id, what: String| Some(format!("incident {}: {what}", incident.short()));
    match event.known()? {
        Known::VendorRegistered(e) => Some(format!("vendor {} registers", e.vendor_id.short())),
        Known::CallStarted(e) => Some(format!("call {}: a driver calls", e.call_id.short())),
        Known::IncidentRequested(e) => Some(format!(
            "call {}: he pressed the key for {}",
            e.call_id.short(),
            e.incident_type
        )),
        Known::IncidentCreated(e) => told(
            &e.incident_id,
            format!("a truck stands still, {} help needed", e.incident_type),
        ),
        Known::OfferCreated(e) => told(
            &e.incident_id,
            format!(
                "offered to vendor {}, {:.1} miles away, score {:.3}",
                e.vendor_id.short(),
                e.distance_miles.get(),
                e.match_score.get()
            ),
        ),
        Known::OfferAccepted(e) => told(
            &e.incident_id,
            format!(
                "vendor {} takes it, about {} min",
                e.vendor_id.short(),
                e.eta_minutes
            ),
        ),
        Known::IncidentStatusChanged(e) => told(
            &e.incident_id,
            format!("{} -> {}", e.previous_status, e.new_status),
        ),
        Known::TrackingUpdated(e) => told(
            &e.incident_id,
            format!(
                "{} {:.2} miles to go, {} min",
                bar(e.eta.distance_miles.get()),
                e.eta.distance_miles.get(),
                e.eta.minutes
            ),
        ),
        Known::VendorArrived(e) => told(
            &e.incident_id,
            format!("the vendor is there, {:.0} m away", e.distance_meters.get()),
        ),
        _ => None,
    }
}

/// Ten places, one for each half mile to go: for output that is not a terminal.
fn bar(miles: f64) -> String {
    let left = (miles * 2.0).ceil().clamp(0.0, 10.0) as usize;
    format!("[{}{}]", "#".repeat(10 - left), ".".repeat(left))
}
