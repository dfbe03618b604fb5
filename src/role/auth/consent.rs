//! What a person agreed to, when: rows that are only added (DOMAIN 5.9).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::subject;
use super::user::User;
use crate::event::{AccountStatus, ConsentKind, Id, Ts};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Error, Tx, params};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Set {
    /// The caller's own without it.
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    consent: ConsentKind,
    given: bool,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Get {
    /// The caller's own without it.
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Consent {
    consent: ConsentKind,
    given: bool,
    at: Ts,
}

/// All answers of a person, oldest first.
pub(super) fn history(tx: &Tx<'_>, user_id: Id) -> Result<Vec<Consent>, Error> {
    tx.documents(
        "SELECT doc FROM consent WHERE user_id = ?1 ORDER BY n",
        params![user_id.to_string()],
    )
}

fn last(history: &[Consent], kind: ConsentKind) -> Option<&Consent> {
    history.iter().rfind(|answer| answer.consent == kind)
}

/// The last answer to each question; one that was never asked has no time.
fn answers(tx: &Tx<'_>, user_id: Id) -> Result<Answers, Error> {
    let history = history(tx, user_id)?;
    let answer = |kind: &ConsentKind| {
        let last = last(&history, *kind);
        Answer {
            consent: *kind,
            given: last.is_some_and(|answer| answer.given),
            at: last.map(|answer| answer.at),
        }
    };
    let items = ConsentKind::ALL.iter().map(answer).collect();
    Ok(Answers { user_id, items })
}

/// A person's last answer to each question.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Consents")]
pub(super) struct Answers {
    user_id: Id,
    items: Vec<Answer>,
}

#[derive(Serialize, JsonSchema)]
struct Answer {
    consent: ConsentKind,
    given: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Ts>,
}

pub(super) fn set(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Set = command.parse()?;
    let user_id = subject(command)?;
    if User::find(tx, user_id)?.status == AccountStatus::Erased {
        let message = "an account that is erased agrees to nothing";
        return Err(Rejection::new(Code::InvalidTransition, message).into());
    }
    if body.consent == ConsentKind::DataProcessing && !body.given {
        let message = "data_processing is what an account needs; ask for its erasure instead";
        return Err(Rejection::field("given", message).into());
    }
    let before = history(tx, user_id)?;
    if last(&before, body.consent).is_none_or(|answer| answer.given != body.given) {
        let answer = Consent {
            consent: body.consent,
            given: body.given,
            at: tx.now(),
        };
        let doc = tx.text(&answer)?;
        tx.execute(
            "INSERT INTO consent (user_id, doc) VALUES (?1, ?2)",
            params![user_id.to_string(), doc],
        )?;
    }
    let answers = answers(tx, user_id)?;
    Ok(tx.reply(&answers)?)
}

pub(super) fn get(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let _: Get = command.parse()?;
    let user_id = subject(command)?;
    User::find(tx, user_id)?;
    let answers = answers(tx, user_id)?;
    Ok(tx.reply(&answers)?)
}
