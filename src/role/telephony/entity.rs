//! Calls, transcripts and the directory of callers, and how they are stored (DOMAIN 5.8).

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
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
    #[schemars(with = "Option<Text<200>>")]
    pub drop_reason: Option<Personal<Text<200>>>,
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

    /// Whose its personal data is: the driver's; while nobody knows who calls, the call's own.
    pub(super) fn subject(&self) -> Id {
        self.driver_id.unwrap_or(self.call_id)
    }

    /// Whether its caller was erased.
    pub(super) fn erased(&self) -> bool {
        self.phone.is_none()
    }

    /// Seals what is personal.
    pub(super) fn seal(&mut self, tx: &Tx<'_>) -> Result<(), Error> {
        let subject = self.subject();
        self.phone = sealed(tx, subject, self.phone.take())?;
        self.intake.location = sealed(tx, subject, self.intake.location.take())?;
        self.intake.description = sealed(tx, subject, self.intake.description.take())?;
        Ok(())
    }

    /// Makes it a driver's call, and its personal data his.
    pub(super) fn belongs_to(&mut self, tx: &Tx<'_>, driver: &Profile) -> Result<(), Error> {
        self.company_id = driver.company_id;
        self.payment_type = driver.payment_type;
        if self.driver_id.replace(driver.user_id) == Some(driver.user_id) {
            return Ok(());
        }
        self.phone = opened(tx, self.phone.take())?;
        self.intake.location = opened(tx, self.intake.location.take())?;
        self.intake.description = opened(tx, self.intake.description.take())?;
        self.seal(tx)
    }

    pub(super) fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.version += 1;
        self.seal(tx)?;
        let doc = tx.text(self)?;
        let phone = match &self.phone {
            Some(phone) => tx.reveal(phone)?,
            None => None,
        };
        let phone = phone.map(|phone| tx.blind(phone.as_str())).transpose()?;
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
                phone,
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

fn sealed<T: Serialize>(
    tx: &Tx<'_>,
    subject: Id,
    value: Option<Personal<T>>,
) -> Result<Option<Personal<T>>, Error> {
    value.map(|value| tx.sealed(&subject, value)).transpose()
}

/// The value in clear, to be sealed for somebody else; as it is, where nobody can read it any more.
fn opened<T: DeserializeOwned + Clone>(
    tx: &Tx<'_>,
    value: Option<Personal<T>>,
) -> Result<Option<Personal<T>>, Error> {
    let Some(value) = value else {
        return Ok(None);
    };
    Ok(Some(match tx.reveal(&value)? {
        Some(plain) => Personal::plain(plain),
        None => value,
    }))
}

/// What is kept of a transcript beside its raw text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.8's own
pub struct Transcript {
    pub transcript_id: Id,
    pub call_id: Id,
    #[schemars(with = "String")]
    pub redacted_text: Personal<String>,
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
    #[schemars(with = "String")]
    pub summary: Personal<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident_type: Option<IncidentType>,
    pub urgency: Urgency,
    pub action_items: Vec<Text<200>>,
    pub sentiment: Sentiment,
    #[schemars(with = "Vec<String>")]
    pub key_phrases: Personal<Vec<String>>,
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
        let mut found: Vec<Self> = Vec::new();
        let all: Vec<Self> = tx.documents(
            "SELECT doc FROM directory WHERE phone IN (?1, ?2) AND active = 1",
            params![tx.blind(phone.as_str())?, phone.as_str()],
        )?;
        for one in all {
            if one.readable(tx)? {
                found.push(one);
            }
        }
        let one = found.pop();
        Ok(one.filter(|_| found.is_empty()))
    }

    /// False for a person who is erased: a database restored from before may have him.
    fn readable(&self, tx: &Tx<'_>) -> Result<bool, Error> {
        match &self.name {
            Some(name) => Ok(tx.reveal(name)?.is_some()),
            None => Ok(true),
        }
    }

    pub(super) fn active(tx: &Tx<'_>, id: Id) -> Result<Option<Self>, Error> {
        let found: Option<Self> = tx.document(
            "SELECT doc FROM directory WHERE user_id = ?1 AND active = 1",
            params![id.to_string()],
        )?;
        match found {
            Some(one) if one.readable(tx)? => Ok(Some(one)),
            _ => Ok(None),
        }
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
