//! Commands on their way from the bus to the writer, and their replies back (DESIGN 10, DOMAIN 1.3).

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use super::audit_notes::Refused;
use super::clock::Clock;
use super::figures::Timings;
use super::writer::{Job, Reply};
use crate::bus::jetstream::service::Request;
use crate::event::Id;
use crate::role::permission::Caller;
use crate::role::{Code, Command, Entropy, Rejection};

/// Header that says who acts.
pub const ACTOR_HEADER: &str = "Roadcall-Actor";

/// Takes requests to the writer until either end closes, and counts how long what got there took.
pub(super) async fn serve(
    mut requests: mpsc::Receiver<Request>,
    jobs: mpsc::Sender<Job>,
    timings: Arc<Mutex<Timings>>,
    refused: mpsc::Sender<Refused>,
    clock: Clock,
) {
    while let Some(request) = requests.recv().await {
        let (id, arrived) = (clock.new_id(), clock.steady());
        match command(&request, id) {
            Err(rejection) => answer(&request, id, Err(rejection), clock).await,
            Ok(command) => {
                let refusal = Refused {
                    actor: command.actor().to_string(),
                    command: command.name.clone(),
                };
                let (asker, reply) = oneshot::channel();
                if jobs.send(Job::Ask(Box::new(command), asker)).await.is_err() {
                    return;
                }
                let (timings, refused) = (Arc::clone(&timings), refused.clone());
                tokio::spawn(async move {
                    let gone = || {
                        Err(Rejection::new(
                            Code::ServiceUnavailable,
                            "the role is stopping, try again",
                        ))
                    };
                    let reply = reply.await.unwrap_or_else(|_| gone());
                    let took = clock.steady().saturating_sub(arrived);
                    timings
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .record(took);
                    if matches!(&reply, Err(rejection) if rejection.code == Code::AuthorizationError)
                        && refused.try_send(refusal).is_err()
                    {
                        tracing::warn!("a refused command is not in the ledger: too many wait");
                    }
                    answer(&request, id, reply, clock).await;
                });
            }
        }
    }
}

pub(super) fn command(request: &Request, id: Id) -> Result<Command, Rejection> {
    let unauthenticated = |message: String| Rejection::new(Code::AuthenticationError, message);
    let header = request.headers.get(ACTOR_HEADER).ok_or_else(|| {
        unauthenticated(format!(
            "the header {ACTOR_HEADER} is missing: it says who acts"
        ))
    })?;
    let caller = Caller::parse(header).map_err(unauthenticated)?;
    let body: Map<String, Value> = if request.body.is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(&request.body).map_err(|error| {
            Rejection::new(
                Code::ValidationError,
                format!("the body is not a JSON object: {error}"),
            )
        })?
    };
    let client_request_id = match body.get("clientRequestId") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if (1..=64).contains(&text.chars().count()) => Some(text.clone()),
        Some(_) => {
            return Err(Rejection::field(
                "clientRequestId",
                "not a text of 1 to 64 characters",
            ));
        }
    };
    Ok(Command {
        id,
        name: request.command.clone(),
        caller,
        body,
        client_request_id,
        traceparent: request.headers.get("traceparent").map(str::to_owned),
        entropy: entropy()?,
    })
}

fn entropy() -> Result<Entropy, Rejection> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        Rejection::new(Code::InternalError, "this can't be done; the log says why")
    })?;
    Ok(Entropy(bytes))
}

pub(super) async fn answer(request: &Request, id: Id, reply: Reply, clock: Clock) {
    match reply {
        Ok(value) => {
            request
                .respond(json!({ "ok": value }).to_string().into_bytes())
                .await
        }
        Err(rejection) => {
            let body = error_body(&rejection, id, clock);
            let text = format!("{}: {}", rejection.code, rejection.message);
            request
                .respond_error(
                    rejection.code.status(),
                    &text,
                    body.to_string().into_bytes(),
                )
                .await;
        }
    }
}

/// The form of DOMAIN 1.3.
fn error_body(rejection: &Rejection, id: Id, clock: Clock) -> Value {
    let mut error = json!({
        "code": rejection.code.as_str(), "message": rejection.message,
        "requestId": id.to_string(), "timestamp": clock.now().to_string(),
    });
    if let Some(field) = &rejection.field {
        error["field"] = field.clone().into();
    }
    if let Some(details) = &rejection.details {
        error["details"] = details.clone();
    }
    json!({ "error": error })
}
