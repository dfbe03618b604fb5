//! A site whose role vendor has a fault that somebody mends later: while it is broken, its handler of ratings fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roadcall::config::Config;
use roadcall::node::registry;
use roadcall::role::permission::Scope;
use roadcall::role::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use roadcall::store::Tx;

/// Makes every role as it is, and vendor as it is while `broken` is false.
pub fn build(
    broken: &Arc<AtomicBool>,
) -> impl Fn(&Config, RoleName) -> Option<Box<dyn Role>> + Sync + use<> {
    let broken = Arc::clone(broken);
    move |config, name| {
        let role = registry::build(config, name)?;
        let broken = Arc::clone(&broken);
        Some(match name {
            RoleName::Vendor => Box::new(Unfixed { role, broken }),
            _ => role,
        })
    }
}

struct Unfixed {
    role: Box<dyn Role>,
    broken: Arc<AtomicBool>,
}

impl Role for Unfixed {
    fn name(&self) -> RoleName {
        self.role.name()
    }

    fn migrations(&self) -> &'static [&'static str] {
        self.role.migrations()
    }

    fn commands(&self) -> &'static [CommandSpec] {
        self.role.commands()
    }

    fn scope(&self, tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
        self.role.scope(tx, command)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        let rated = matches!(input, Input::Event(received) if received.event.detail_type == "IncidentRated");
        if rated && self.broken.load(Ordering::SeqCst) {
            return Err(HandlerError::Transient(
                "the stars can't be added".to_owned(),
            ));
        }
        self.role.handle(tx, input)
    }
}
