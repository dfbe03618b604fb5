//! Commands: permission and ownership first, then the kept reply or the handler, all in the step's transaction.

use serde_json::{Map, Value};

use super::{Engine, StepOutput};
use crate::event::{Sealed, Ts, seal};
use crate::role::permission::{self, Scope};
use crate::role::{Code, Command, CommandSpec, HandlerError, Input, Rejection};
use crate::store::{self, Context, Origin, Reach, Tx};

/// It takes events as they are, and its reply shows nothing of them.
const PUBLISH: &str = "event.publish";

impl Engine {
    pub(super) fn command(
        &mut self,
        command: &Command,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        self.counts.commands += 1;
        let Some(spec) = self
            .role
            .commands()
            .iter()
            .find(|spec| spec.name == command.name)
            .copied()
        else {
            let message = format!("role {} has no command {}", self.role.name(), command.name);
            output
                .replies
                .push((command.id, Err(Rejection::new(Code::NotFound, message))));
            return Ok(());
        };
        if spec.name != PUBLISH
            && let Some(field) = sealed_in(&command.body)
        {
            let message = "begins like a sealed text; what is sealed is not taken from outside";
            let refused = Err(Rejection::field(field, message));
            output.replies.push((command.id, refused));
            return Ok(());
        }
        let kept_under = reply_key(command, spec);
        if let Some(key) = &kept_under
            && let Some(text) = self.store.kept_reply(key)?
        {
            let reply = serde_json::from_str(&text).unwrap_or(Value::Null);
            let reply = self.revealed(reply);
            output.replies.push((command.id, reply));
            return Ok(());
        }
        if spec.mutates && self.store.catching_up() {
            let message = "the role catches up with the archive after a restore, try again";
            let busy = Rejection::new(Code::ServiceUnavailable, message);
            output.replies.push((command.id, Err(busy)));
            return Ok(());
        }
        let context = Context {
            now,
            input_id: command.id,
            input_time: now,
            first: true,
            origin: Origin {
                cause: Some(command.id),
                traceparent: command.traceparent.clone(),
                ..Origin::default()
            },
            delivery: None,
            reach: Reach::Full,
            trace: None,
        };
        let reply = match self.permit(command, spec, &context)? {
            Err(error) => Err(self.refusal(command, error)),
            Ok(()) => match self.run(context, &Input::Command(Box::new(command.clone())), |_| {
                Ok(())
            })? {
                Err(error) => Err(self.refusal(command, error)),
                Ok(mut done) => {
                    if let Some(call) = done.reply_with.take() {
                        let place = done.traced.here;
                        output
                            .places
                            .extend(place.map(|here| (call.key.clone(), here)));
                        output.answers.push((command.id, call));
                        self.collect(done, output);
                        return Ok(());
                    }
                    let reply = done
                        .reply
                        .take()
                        .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                    let refused = done.refused;
                    self.collect(done, output);
                    if refused {
                        Err(self.refused(command, reply))
                    } else {
                        if let Some(key) = kept_under {
                            self.store.keep_reply(&key, &reply.to_string(), now.ms())?;
                        }
                        self.revealed(reply)
                    }
                }
            },
        };
        self.after_command(command, &reply, now)?;
        output.replies.push((command.id, reply));
        Ok(())
    }

    /// Asks whose entity it is, and decides by the one table (DOMAIN 1.2).
    fn permit(
        &mut self,
        command: &Command,
        spec: CommandSpec,
        context: &Context,
    ) -> Result<Result<(), HandlerError>, store::Error> {
        // Permission alone first, so that nobody learns from NOT_FOUND what exists.
        if let Err(rejection) = permission::check(&command.caller, spec.permission, &Scope::Open) {
            return Ok(Err(rejection.into()));
        }
        let tx = Tx::open(&mut self.store, context.clone())?;
        let scope = self.role.scope(&tx, command);
        tx.abandon()?;
        match scope {
            Ok(scope) => Ok(permission::check(&command.caller, spec.permission, &scope)
                .map_err(HandlerError::from)),
            Err(HandlerError::Store(error)) if error.fatal() => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }

    /// A reply as whoever may give the command sees it: what is kept of it is sealed.
    fn revealed(&self, mut reply: Value) -> Result<Value, Rejection> {
        let Some(keys) = self.store.keys() else {
            return Ok(reply);
        };
        match seal::reveal(&mut reply, keys.as_ref()) {
            Ok(_) => Ok(reply),
            Err(error) => {
                tracing::warn!(role = %self.role.name(), %error, "a reply can't be shown");
                let message =
                    "what was asked for is done, but its personal data can't be shown now";
                Err(Rejection::new(Code::ServiceUnavailable, message))
            }
        }
    }

    /// The refusal that a handler left as its reply (see `role::refuse`).
    fn refused(&mut self, command: &Command, reply: Value) -> Rejection {
        let rejection = serde_json::from_value(reply).unwrap_or_else(|error| {
            tracing::error!(role = %self.role.name(), command = command.name, %error, "a refusal can't be read");
            Rejection::new(Code::InternalError, "this can't be done; the log says why")
        });
        self.refusal(command, HandlerError::Rejected(rejection))
    }

    fn refusal(&mut self, command: &Command, error: HandlerError) -> Rejection {
        match error {
            HandlerError::Rejected(rejection) => {
                self.counts.rejected += 1;
                tracing::debug!(role = %self.role.name(), command = command.name, code = %rejection.code, "command refused");
                rejection
            }
            HandlerError::NotYet(text) | HandlerError::Transient(text) => {
                self.counts.failed += 1;
                tracing::warn!(role = %self.role.name(), command = command.name, error = text, "command failed");
                Rejection::new(
                    Code::ServiceUnavailable,
                    "this can't be done right now, try again",
                )
            }
            HandlerError::Permanent(_, text) => {
                self.counts.failed += 1;
                tracing::error!(role = %self.role.name(), command = command.name, error = text, "command failed");
                Rejection::new(Code::InternalError, "this can't be done; the log says why")
            }
            HandlerError::Store(error)
                if matches!(error.class, store::Class::NoKey | store::Class::UnknownKey) =>
            {
                self.counts.failed += 1;
                tracing::warn!(role = %self.role.name(), command = command.name, %error, "command failed");
                let message = "personal data can't be sealed or read right now, try again";
                Rejection::new(Code::ServiceUnavailable, message)
            }
            HandlerError::Store(error) => {
                self.counts.failed += 1;
                tracing::error!(role = %self.role.name(), command = command.name, %error, "command failed in the store");
                Rejection::new(Code::InternalError, "this can't be done; the log says why")
            }
        }
    }

    /// A successful command is a commit of its key, which rows that wait for a predecessor wait for.
    fn after_command(
        &mut self,
        command: &Command,
        reply: &Result<Value, Rejection>,
        now: Ts,
    ) -> Result<(), store::Error> {
        if !self.waits || reply.is_err() {
            return Ok(());
        }
        for name in ["incidentId", "vendorId"] {
            let of_body = command.body.get(name).and_then(Value::as_str);
            let of_reply = reply
                .as_ref()
                .ok()
                .and_then(|value| value.get(name))
                .and_then(Value::as_str);
            if let Some(entity) = of_body.or(of_reply) {
                self.store.poke_not_yet(entity, now.ms())?;
            }
        }
        Ok(())
    }
}

/// The name of a field with a sealed text somewhere in it. Whoever got hold of one could put it where a reply shows it opened.
fn sealed_in(body: &Map<String, Value>) -> Option<&str> {
    fn has(value: &Value) -> bool {
        match value {
            Value::String(text) => Sealed::parse(text).is_some(),
            Value::Array(items) => items.iter().any(has),
            Value::Object(map) => map.values().any(has),
            _ => false,
        }
    }
    let mut fields = body.iter();
    fields.find_map(|(name, value)| has(value).then_some(name.as_str()))
}

/// Where the reply of a state-changing command with a `clientRequestId` is kept (DOMAIN 1.3, retry).
fn reply_key(command: &Command, spec: CommandSpec) -> Option<String> {
    let id = command
        .client_request_id
        .as_deref()
        .filter(|_| spec.mutates)?;
    Some(format!("{}|{}|{id}", command.caller.actor, command.name))
}
