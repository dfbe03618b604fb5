//! Calls, transcripts and the directory of callers, and how they are stored (DOMAIN 5.8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::summary::Sentiment;
use crate::event::{
    CallDirection, Disposition, E164, Id, IncidentType, IntakeField, PaymentType, Personal, Place,
    Priority, Rate, Text, Ts, Urgency,
};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE call (
    call_id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    provider_call_id TEXT NOT NULL,
    driver_id TEXT,
    company_id TEXT,
    phone TEXT,
    intake TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL,
    UNIQUE (provider, provider_call_id)
);
CREATE INDEX call_started ON call (started_at_ms, call_id);
CREATE INDEX call_phone ON call (phone);
CREATE INDEX call_driver ON call (driver_id);
CREATE TABLE webhook (
    provider TEXT NOT NULL,
    provider_call_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (provider, provider_call_id, kind)
) WITHOUT ROWID;
CREATE TABLE transcript (
    transcript_id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    provider_call_id TEXT NOT NULL,
    call_id TEXT,
    -- The raw text with what was found in it, sealed; gone after 90 days.
    sealed BLOB,
    confidence REAL NOT NULL,
    doc TEXT,
    UNIQUE (provider, provider_call_id)
);
CREATE TABLE directory (
    user_id TEXT PRIMARY KEY,
    phone TEXT,
    active INTEGER NOT NULL,
    version INTEGER NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX directory_phone ON directory (phone);
CREATE TABLE erased (user_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE access_log (access_log_id TEXT PRIMARY KEY, transcript_id TEXT NOT NULL, at_ms INTEGER NOT NULL, doc TEXT NOT NULL);
"];

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are DOMAIN 5.8's own
pub enum CallStatus {
    Started,
    Ended,
    Transcribed,
    Summarised,
}

/// Where a call's intake stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are DOMAIN 5.8's own
pub enum IntakeStatus {
    Collecting,
    Waiting,
    Requested,
    Dropped,
}

impl IntakeStatus {
    /// The name as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collecting => "collecting",
            Self::Waiting => "waiting",
            Self::Requested => "requested",
            Self::Dropped => "dropped",
        }
    }

    /// Whether anything can still be added.
    #[must_use]
    pub fn open(self) -> bool {
        matches!(self, Self::Collecting | Self::Waiting)
    }
}

/// The state table of a call.
#[must_use]
pub fn legal(from: CallStatus, to: CallStatus) -> bool {
    use CallStatus as S;
    matches!(
        (from, to),
        (S::Started, S::Ended) | (S::Ended, S::Transcribed) | (S::Transcribed, S::Summarised)
    )
}

/// What is gathered for an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.8's own
pub struct Intake {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub incident_type: Option<IncidentType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Personal<Place>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Personal<Text<1000>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The caller pressed 0: he wants a person.
    pub operator_wanted: bool,
    pub status: IntakeStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<Text<200>>,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.8's own
pub struct Call {
    pub call_id: Id,
    pub provider: String,
    pub provider_call_id: Text<128>,
    /// Absent once the caller was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<Personal<E164>>,
    pub direction: CallDirection,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_type: Option<PaymentType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident_id: Option<Id>,
    pub status: CallStatus,
    pub started_at: Ts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recording_ref: Option<Text<256>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disposition: Option<Disposition>,
    pub intake: Intake,
    pub version: u64,
}

impl Call {
    pub(super) fn find(tx: &Tx<'_>, id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM call WHERE call_id = ?1",
            params![id.to_string()],
        )
    }

    pub(super) fn of_provider(
        tx: &Tx<'_>,
        provider: &str,
        id: &str,
    ) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM call WHERE provider = ?1 AND provider_call_id = ?2",
            params![provider, id],
        )
    }

    pub(super) fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.version += 1;
        let doc = tx.text(self)?;
        let phone = self.phone.as_ref().and_then(Personal::as_plain);
        tx.execute(
            "INSERT INTO call (call_id, provider, provider_call_id, driver_id, company_id, phone, intake, started_at_ms, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (call_id) DO UPDATE SET driver_id = ?4, company_id = ?5, phone = ?6, intake = ?7,
                 started_at_ms = ?8, doc = ?9",
            params![
                self.call_id.to_string(),
                self.provider,
                self.provider_call_id.as_str(),
                self.driver_id.map(|id| id.to_string()),
                self.company_id.map(|id| id.to_string()),
                phone.map(E164::as_str),
                self.intake.status.as_str(),
                self.started_at.ms(),
                doc
            ],
        )?;
        Ok(())
    }

    /// What the intake still lacks, in DOMAIN's order.
    #[must_use]
    pub fn missing(&self) -> Vec<IntakeField> {
        [
            (self.driver_id.is_none(), IntakeField::Driver),
            (self.intake.incident_type.is_none(), IntakeField::Type),
            (self.intake.location.is_none(), IntakeField::Location),
        ]
        .into_iter()
        .filter_map(|(lacks, field)| lacks.then_some(field))
        .collect()
    }
}

/// What is kept in clear of a transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.8's own
pub struct Transcript {
    pub transcript_id: Id,
    pub call_id: Id,
    pub redacted_text: String,
    pub confidence: Rate,
    #[serde(rename = "hasPII")]
    pub has_pii: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// What a transcript came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.8's own
pub struct Summary {
    pub summary_id: Id,
    pub summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident_type: Option<IncidentType>,
    pub urgency: Urgency,
    pub action_items: Vec<Text<200>>,
    pub sentiment: Sentiment,
    pub key_phrases: Vec<String>,
    pub generated_at: Ts,
}

impl Transcript {
    pub(super) fn find(tx: &Tx<'_>, id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM transcript WHERE transcript_id = ?1 AND doc IS NOT NULL",
            params![id.to_string()],
        )
    }

    pub(super) fn of_call(tx: &Tx<'_>, id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM transcript WHERE call_id = ?1 AND doc IS NOT NULL",
            params![id.to_string()],
        )
    }

    pub(super) fn save(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let doc = tx.text(self)?;
        tx.execute(
            "UPDATE transcript SET call_id = ?2, doc = ?3 WHERE transcript_id = ?1",
            params![
                self.transcript_id.to_string(),
                self.call_id.to_string(),
                doc
            ],
        )?;
        Ok(())
    }
}

/// A driver in the directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.8's own
pub struct Profile {
    pub user_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Personal<Text<120>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_type: Option<PaymentType>,
}

impl Profile {
    /// The active driver with this number; none where two have it.
    pub(super) fn of_phone(tx: &Tx<'_>, phone: &E164) -> Result<Option<Self>, Error> {
        let mut found: Vec<Self> = tx.documents(
            "SELECT doc FROM directory WHERE phone = ?1 AND active = 1 LIMIT 2",
            params![phone.as_str()],
        )?;
        let one = found.pop();
        Ok(one.filter(|_| found.is_empty()))
    }

    pub(super) fn active(tx: &Tx<'_>, id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM directory WHERE user_id = ?1 AND active = 1",
            params![id.to_string()],
        )
    }
}

/// A caller's number as DOMAIN 5.8 reads it: 10 digits are American, and so are 11 that start with 1.
#[must_use]
pub fn normalise(number: &str) -> Option<E164> {
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    let foreign = number
        .chars()
        .any(|c| !c.is_ascii_digit() && !" +-.()/".contains(c));
    let text = match digits.len() {
        _ if foreign => return None,
        _ if number.trim_start().starts_with('+') => format!("+{digits}"),
        10 => format!("+1{digits}"),
        11 if digits.starts_with('1') => format!("+{digits}"),
        _ => return None,
    };
    E164::new(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_domain_says() {
        let read = |text| normalise(text).map(|phone| phone.to_string());
        assert_eq!(read("5551234567").as_deref(), Some("+15551234567"));
        assert_eq!(read("(555) 123-4567").as_deref(), Some("+15551234567"));
        assert_eq!(read("15551234567").as_deref(), Some("+15551234567"));
        assert_eq!(read("+44 20 7946 0958").as_deref(), Some("+442079460958"));
        for none in ["25551234567", "911", "anonymous", "", "+0123"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_call_goes_one_way() {
        use CallStatus as S;
        let all = [S::Started, S::Ended, S::Transcribed, S::Summarised];
        for (m, from) in all.into_iter().enumerate() {
            for (n, to) in all.into_iter().enumerate() {
                assert_eq!(legal(from, to), n == m + 1, "{from:?} {to:?}");
            }
        }
    }
}
