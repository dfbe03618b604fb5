//! The role `audit`, as far as it goes now: it takes every event off its queue, so that each has an outcome there. The
//! event log, the ledger and the commands on letters and replays come with later issues.

use super::permission::Scope;
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use crate::store::Tx;

/// The role.
#[derive(Debug, Default)]
pub struct AuditRole;

impl Role for AuditRole {
    fn name(&self) -> RoleName {
        RoleName::Audit
    }

    fn migrations(&self) -> &'static [&'static str] {
        &[]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        &[]
    }

    fn scope(&self, _tx: &Tx<'_>, _command: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, _tx: &mut Tx<'_>, _input: &Input) -> Result<(), HandlerError> {
        Ok(())
    }
}
