//! Commands over HTTP: `POST /v1/{entity}/{verb}` for each, and `GET` forms for those that only read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::{Map, Value};

use super::Door;
use super::identity;
use super::limits::person;
use super::problem::Problem;
use super::specs::{Spec, Specs, types_of};
use crate::bus::Headers;
use crate::bus::jetstream::service::CallError;
use crate::node::commands::ACTOR_HEADER;
use crate::role::Code;
use crate::role::permission::{self, Caller, Permission, Scope, person_of};

/// The header that names a retry (DESIGN 10): `clientRequestId` of the command.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a handler needs besides a body or a query.
type Common = (State<Arc<Door>>, Extension<SocketAddr>, HeaderMap);

/// A route for every command, by path.
pub(super) fn routes(specs: &Specs) -> BTreeMap<String, MethodRouter<Arc<Door>>> {
    let mut routes: BTreeMap<String, MethodRouter<Arc<Door>>> = BTreeMap::new();
    for spec in specs.0.values() {
        let (entity, verb) = spec.name();
        let name = spec.command.name;
        let mut methods = post(
            move |State(door): State<Arc<Door>>,
                  Extension(peer): Extension<SocketAddr>,
                  headers: HeaderMap,
                  body| async move { posted(&door, name, peer, &headers, body).await },
        );
        if spec.readable() {
            methods = methods.get(reading(name));
        }
        routes.insert(format!("/v1/{entity}/{verb}"), methods);
        if verb == "list" {
            routes.insert(format!("/v1/{entity}"), get(reading(name)));
        }
        if verb == "get" {
            let one = move |id: Result<Path<String>, PathRejection>,
                            common: Common,
                            RawQuery(query): RawQuery| async move {
                match id {
                    Ok(Path(id)) => asked(name, common, query, Some(id)).await,
                    Err(_) => Problem::field("id", "not UTF-8 text").into_response(),
                }
            };
            routes.insert(format!("/v1/{entity}/{{id}}"), get(one));
        }
    }
    routes
}

fn reading(
    name: &'static str,
) -> impl Fn(Common, RawQuery) -> std::pin::Pin<Box<dyn Future<Output = Response> + Send>>
+ Clone
+ Send
+ Sync
+ 'static {
    move |common, RawQuery(query)| Box::pin(asked(name, common, query, None))
}

async fn posted(
    door: &Door,
    name: &'static str,
    peer: SocketAddr,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let result = async {
        let caller = admit(door, name, peer, headers).await?;
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
            _ => Problem::new(Code::ValidationError, "the body could not be read whole"),
        })?;
        let body = with_key(object(headers, &body)?, headers)?;
        send(door, name, &caller, headers, body).await
    };
    result.await.unwrap_or_else(IntoResponse::into_response)
}

async fn asked(
    name: &'static str,
    (State(door), Extension(peer), headers): Common,
    query: Option<String>,
    id: Option<String>,
) -> Response {
    let result = async {
        let caller = admit(&door, name, peer, &headers).await?;
        let spec = spec(&door, name)?;
        let mut body = of_query(spec, query.as_deref().unwrap_or_default())?;
        if let (Some(id), Some(field)) = (id, spec.id_field()) {
            body.insert(field.to_owned(), id.into());
        }
        send(&door, name, &caller, &headers, body).await
    };
    result.await.unwrap_or_else(IntoResponse::into_response)
}

fn spec<'d>(door: &'d Door, name: &str) -> Result<&'d Spec, Problem> {
    door.specs.0.get(name).ok_or_else(Problem::no_such_path)
}

/// Who asks, if he may ask at all and not too often. Whose entity it is, the role decides.
async fn admit(
    door: &Door,
    name: &str,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    door.limits.address(peer.ip())?;
    let permission = spec(door, name)?.command.permission;
    let known = if permission == Permission::Public {
        None
    } else {
        door.identities.caller(headers).await?
    };
    let caller = match known {
        Some(caller) => caller,
        None if permission == Permission::Public => identity::door(),
        None => {
            return Err(Problem::unauthenticated(
                "this needs a token: 'Authorization: Bearer <token>'",
            ));
        }
    };
    let who = person(person_of(&caller.actor), peer.ip());
    door.limits.command(&who, permission)?;
    permission::check(&caller, permission, &Scope::Open)?;
    Ok(caller)
}

/// The body as a JSON object; no body at all is an empty one.
fn object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.split(';').next().unwrap_or_default().trim())
        .is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
    if !json {
        return Err(Problem::media_type());
    }
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(
            Code::ValidationError,
            format!("the body is not a JSON object: {error}"),
        )
    })
}

/// `Idempotency-Key` as the command's `clientRequestId`.
fn with_key(
    mut body: Map<String, Value>,
    headers: &HeaderMap,
) -> Result<Map<String, Value>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(body);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=64).contains(&key.chars().count()))
        .ok_or_else(|| {
            Problem::field("Idempotency-Key", "not a text of 1 to 64 plain characters")
        })?;
    match body.get("clientRequestId") {
        Some(given) if given.as_str() != Some(key) => Err(Problem::field(
            "clientRequestId",
            "differs from the header Idempotency-Key; give one of the two",
        )),
        _ => {
            body.insert("clientRequestId".to_owned(), key.into());
            Ok(body)
        }
    }
}

/// A body from query parameters, each read as its field's schema says.
fn of_query(spec: &Spec, query: &str) -> Result<Map<String, Value>, Problem> {
    let pairs: Vec<(String, String)> = axum::extract::Query::try_from_uri(
        &format!("/?{query}")
            .parse()
            .map_err(|_| Problem::new(Code::ValidationError, "the query can't be read"))?,
    )
    .map_err(|error| Problem::new(Code::ValidationError, error.body_text()))?
    .0;
    let mut body = Map::new();
    for (name, text) in pairs {
        let Some((_, schema)) = spec.fields().find(|(field, _)| **field == name) else {
            return Err(Problem::field(&name, "is not a parameter of this command"));
        };
        let types = types_of(schema);
        let number = || text.parse::<serde_json::Number>().ok().map(Value::Number);
        let value = if types.contains(&"string") {
            Some(Value::String(text.clone()))
        } else if types.contains(&"boolean") {
            text.parse().ok().map(Value::Bool)
        } else {
            number()
        };
        let value =
            value.ok_or_else(|| Problem::field(&name, format!("not a {}", types.join(" or "))))?;
        if body.insert(name.clone(), value).is_some() {
            return Err(Problem::field(&name, "is given twice"));
        }
    }
    Ok(body)
}

/// Asks the role, as the caller, and gives its answer.
pub(super) async fn send(
    door: &Door,
    name: &str,
    caller: &Caller,
    headers: &HeaderMap,
    body: Map<String, Value>,
) -> Result<Response, Problem> {
    let result = call(door, name, caller, headers, body).await?;
    Ok(Json(result).into_response())
}

/// The command's result.
pub(super) async fn call(
    door: &Door,
    name: &str,
    caller: &Caller,
    headers: &HeaderMap,
    body: Map<String, Value>,
) -> Result<Value, Problem> {
    let mut out = Headers::default();
    out.push(ACTOR_HEADER, caller.header());
    if let Some(trace) = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
    {
        out.push("traceparent", trace);
    }
    let body = Value::Object(body).to_string().into_bytes();
    let site = &door.config.site.id;
    let reply = door.bus.call(site, name, &out, body, door.timeout).await;
    let reply = reply.map_err(|error| not_answered(name, &error))?;
    let mut value: Value = serde_json::from_slice(&reply.body).map_err(|error| {
        tracing::error!(command = name, %error, "a role's reply is not JSON");
        Problem::new(Code::InternalError, "this can't be done; the log says why")
    })?;
    match value.get("error") {
        Some(error) => Err(Problem::of_reply(error, reply.error_code)),
        None => Ok(value.get_mut("ok").map(Value::take).unwrap_or(Value::Null)),
    }
}

fn not_answered(name: &str, error: &CallError) -> Problem {
    tracing::warn!(command = name, %error, "a command was not answered");
    match error {
        CallError::NoResponder(_) => Problem::new(
            Code::ServiceUnavailable,
            "the role that answers this does not run right now, try again",
        ),
        CallError::Timeout(_) => Problem::new(
            Code::Timeout,
            "no answer in time: the outcome is unknown, repeat it with the same Idempotency-Key",
        ),
        CallError::Broker(_) => Problem::new(
            Code::ServiceUnavailable,
            "the broker can't be reached right now, try again",
        ),
    }
}
