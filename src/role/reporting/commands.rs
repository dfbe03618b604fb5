//! Reports (DOMAIN 5.7). Permission was checked before; a dispatcher gets his company's.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::fact::{Facts, Incident, Listed, Window};
use super::{export, kpi, vendor};
use crate::event::{Actor, Id, IncidentType, Text, Ts};
use crate::role::listing::{cursor, limit, next};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

/// Declares a command's body: the bounds that all reports have, and fields of its own. serde can't refuse unknown fields
/// of a struct that is flattened into another.
macro_rules! bounded {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub(super) struct $name {
            /// Created at this time or later.
            since: Option<$crate::event::Ts>,
            /// Created at this time or before.
            until: Option<$crate::event::Ts>,
            region: Option<$crate::event::Text<64>>,
            incident_type: Option<$crate::event::IncidentType>,
            company_id: Option<$crate::event::Id>,
            $($(#[$field_meta])* $field: $type,)*
        }

        impl $name {
            fn window(
                &self,
                command: &$crate::role::Command,
            ) -> Result<$crate::role::reporting::fact::Window, $crate::role::HandlerError> {
                $crate::role::reporting::commands::window(
                    command,
                    (self.since, self.until),
                    self.region.as_ref(),
                    self.incident_type,
                    self.company_id,
                )
            }
        }
    };
}
pub(super) use bounded;

bounded! {
    /// Which incidents to list.
    Asked {
        limit: Option<u64>,
        cursor: Option<String>,
    }
}

pub(super) fn run(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "report.incidents" => list(tx, command),
        "report.kpis" => kpi::kpis(tx, command),
        "report.vendor" => vendor::report(tx, command),
        "report.export" => export::export(tx, command),
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
    }
}

/// The window asked for: a dispatcher's is his company's.
pub(super) fn window(
    command: &Command,
    (since, until): (Option<Ts>, Option<Ts>),
    region: Option<&Text<64>>,
    incident_type: Option<IncidentType>,
    company_id: Option<Id>,
) -> Result<Window, HandlerError> {
    let asked = company_id.map(|id| id.to_string());
    let company = match command.actor() {
        Actor::Dispatcher(_) => {
            let own = command.caller.company.map(|id| id.to_string());
            if asked.is_some() && asked != own {
                let message = "the reports of another company are not yours";
                return Err(Rejection::new(Code::AuthorizationError, message).into());
            }
            Some(own)
        }
        _ => asked.map(Some),
    };
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        return Err(Rejection::field("until", "is before since").into());
    }
    Ok(Window {
        since_ms: since.map_or(i64::MIN, Ts::ms),
        until_ms: until.map_or(i64::MAX, Ts::ms),
        company,
        incident_type: incident_type.map(|one| one.to_string()),
        region: region.map(|region| region.as_str().to_owned()),
    })
}

/// A page of incidents, newest first, with the counts of all of them.
fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let asked: Asked = command.parse()?;
    let most = usize::try_from(limit(asked.limit)?).unwrap_or(usize::MAX);
    let (before_ms, before_id) = cursor(asked.cursor.as_deref())?;
    let window = asked.window(command)?;
    // The counts are of all of them, whichever page is asked for.
    let all = Facts::of(tx, &window)?.incidents()?;
    let (shown, cursor) = part(&all, most, (before_ms, &before_id), Incident::place);
    tx.reply(&IncidentsReport {
        items: shown.into_iter().cloned().collect(),
        cursor,
        counts: Counts::of(&all),
    })
    .map_err(Into::into)
}

/// The entries of a listing behind a place, at most so many, and the cursor where there are more.
pub(super) fn part<'a, T>(
    all: &'a [T],
    most: usize,
    behind: (i64, &str),
    place: impl Fn(&T) -> (i64, &str),
) -> (Vec<&'a T>, Option<String>) {
    let mut shown: Vec<&T> = all
        .iter()
        .filter(|entry| place(entry) < behind)
        .take(most + 1)
        .collect();
    let more = shown.len() > most;
    shown.truncate(most);
    let last = shown.last().filter(|_| more).map(|entry| place(entry));
    (shown, last.map(|(ms, id)| next(ms, id)))
}

/// A page of incidents, and how many there are in all.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct IncidentsReport {
    items: Vec<Incident>,
    /// Where it goes on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    counts: Counts,
}

/// Of all incidents of the window, on whichever page.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Counts {
    total: usize,
    by_type: BTreeMap<String, usize>,
    by_status: BTreeMap<String, usize>,
    by_region: BTreeMap<String, usize>,
    /// Of creation, in UTC: `2026-01-15T10`.
    by_hour: BTreeMap<String, usize>,
}

impl Counts {
    fn of(all: &[Incident]) -> Self {
        let hour = |at: Ts| at.to_string()[..13].to_owned();
        Self {
            total: all.len(),
            by_type: by(all, |fact| fact.incident_type.clone()),
            by_status: by(all, |fact| fact.status.clone()),
            by_region: by(all, |fact| fact.region.clone()),
            by_hour: by(all, |fact| fact.created_at.map(hour)),
        }
    }
}

fn by(all: &[Incident], key: impl Fn(&Incident) -> Option<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for fact in all {
        *counts
            .entry(key(fact).unwrap_or_else(|| "unknown".to_owned()))
            .or_default() += 1;
    }
    counts
}
