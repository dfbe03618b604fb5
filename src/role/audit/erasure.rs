//! Destroys the keys of a person who was erased, at every site that had some, and sees to it that none is left (DOMAIN 5.12).

use serde_json::{Value, json};

use super::ledger;
use crate::event::UserDataDeleted;
use crate::role::{EffectResult, HandlerError, KEY_DESTROY, Timer};
use crate::store::{EffectCall, EffectClass, EffectOutcome, Error, Tx};

/// The timer of a try that did not come about.
pub(super) const TIMER: &str = "key-destroy";
/// When it is tried again.
const AGAIN_MS: i64 = 60_000;

/// A person was erased.
pub(super) fn heard(tx: &mut Tx<'_>, erased: &UserDataDeleted) -> Result<(), Error> {
    if !tx.seals() {
        return Ok(());
    }
    let subject = erased.user_id.to_string();
    destroy(tx, &subject, KEY_DESTROY.to_owned())
}

fn destroy(tx: &mut Tx<'_>, subject: &str, prefix: String) -> Result<(), Error> {
    tx.effect(EffectCall {
        key: format!("{prefix}/{subject}"),
        kind: KEY_DESTROY.to_owned(),
        class: EffectClass::Local,
        request: json!({ "subject": subject }),
        secret: None,
    })
}

/// Tries once more.
pub(super) fn due(tx: &mut Tx<'_>, timer: &Timer) -> Result<(), HandlerError> {
    let prefix = format!("{KEY_DESTROY}/{}", timer.due_at.ms());
    Ok(destroy(tx, &timer.key, prefix)?)
}

/// What it came to: none is left, or it is tried until none is.
pub(super) fn on_result(tx: &mut Tx<'_>, result: &EffectResult) -> Result<(), HandlerError> {
    let subject = result.request["subject"].as_str().unwrap_or_default();
    if let EffectOutcome::Done(value) = &result.outcome
        && value["left"] == 0
    {
        return Ok(ledger::said(
            tx,
            "keys destroyed",
            &format!("user/{subject}"),
        )?);
    }
    tracing::error!(outcome = ?result.outcome, "the keys of an erased person are not destroyed yet");
    let at = crate::event::Ts::from_ms(tx.now().ms() + AGAIN_MS);
    Ok(tx.schedule(at, TIMER, subject, &Value::Null)?)
}
