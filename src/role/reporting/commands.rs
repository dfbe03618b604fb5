//! Reports (DOMAIN 5.7). Permission was checked before; a dispatcher gets his company's incidents.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fact::{Incident, Window, incidents};
use crate::event::{Actor, Id, IncidentType, Text, Ts};
use crate::role::listing::{cursor, limit, next, page};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

/// Which incidents a report is about; times are of their creation, both ends inclusive.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Asked {
    since: Option<Ts>,
    until: Option<Ts>,
    region: Option<Text<64>>,
    incident_type: Option<IncidentType>,
    company_id: Option<Id>,
    limit: Option<u64>,
    cursor: Option<String>,
}

pub(super) fn run(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "report.incidents" => list(tx, command),
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
    }
}

impl Asked {
    fn window(&self, command: &Command) -> Result<Window, HandlerError> {
        let asked = self.company_id.map(|id| id.to_string());
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
        Ok(Window {
            since_ms: self.since.map_or(i64::MIN, Ts::ms),
            until_ms: self.until.map_or(i64::MAX, Ts::ms),
            company,
            incident_type: self.incident_type.map(|one| one.to_string()),
            region: self
                .region
                .as_ref()
                .map(|region| region.as_str().to_owned()),
        })
    }
}

/// A page of incidents, newest first, with the counts of all of them.
fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let asked: Asked = command.parse()?;
    let most = usize::try_from(limit(asked.limit)?).unwrap_or(usize::MAX);
    let (before_ms, before_id) = cursor(asked.cursor.as_deref())?;
    let all = incidents(tx, &asked.window(command)?)?;
    let place = |fact: &Incident| (fact.created_at.map_or(0, Ts::ms), fact.incident_id.clone());
    let rest: Vec<&Incident> = all
        .iter()
        .filter(|fact| place(fact) < (before_ms, before_id.clone()))
        .take(most + 1)
        .collect();
    let shown = &rest[..rest.len().min(most)];
    let cursor = (rest.len() > most)
        .then(|| shown.last().map(|fact| place(fact)))
        .flatten()
        .map(|(ms, id)| next(ms, &id));
    let mut reply = page(shown, cursor);
    reply["counts"] = counts(&all);
    tx.reply(&reply).map_err(Into::into)
}

fn counts(all: &[Incident]) -> Value {
    json!({
        "total": all.len(),
        "byType": by(all, |fact| fact.incident_type.clone()),
        "byStatus": by(all, |fact| fact.status.clone()),
        "byRegion": by(all, |fact| fact.region.clone()),
        // Of creation, in UTC: `2026-01-15T10`.
        "byHour": by(all, |fact| fact.created_at.map(|at| at.to_string()[..13].to_owned())),
    })
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
