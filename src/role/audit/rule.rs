//! `rule.enable` and `rule.disable`: a rule is switched for the whole site, over what the rules' file says (DESIGN 6). The
//! switch stands in KV `TOPOLOGY`, where every process looks; this role writes it, so that the ledger can see who did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{Actor, Key, Ts};
use crate::role::{Command, HandlerError};
use crate::store::Tx;

/// Bucket of the switches (DESIGN 6).
const TOPOLOGY: &str = "TOPOLOGY";

/// What stands under `rule.<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Whether the rule routes anything.
    pub enabled: bool,
    /// Who wants it so.
    pub by: Actor,
    /// Since when.
    pub at: Ts,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Named {
    rule: Key,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// Whether there is such a rule is the caller's to know: a role sees no rules.
pub(super) fn switch(
    tx: &mut Tx<'_>,
    command: &Command,
    enabled: bool,
) -> Result<(), HandlerError> {
    let named: Named = command.parse()?;
    let switch = Switch {
        enabled,
        by: command.actor().clone(),
        at: tx.now(),
    };
    tx.put_document(TOPOLOGY, &format!("rule.{}", named.rule), &switch)?;
    tx.reply(&Switched {
        rule: named.rule.as_str().to_owned(),
        enabled,
    })
    .map_err(Into::into)
}

/// Whether a rule routes from now on.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RuleSwitched")]
pub(super) struct Switched {
    rule: String,
    enabled: bool,
}
