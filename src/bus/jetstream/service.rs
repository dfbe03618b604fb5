//! Commands over request/reply, as a NATS service (ADR-32): discoverable, spread over a queue group, with errors in the
//! headers that such services use.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::service::ServiceExt;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{JetStream, from_header_map};
use crate::bus::links::HUB;
use crate::bus::{EVENTS, Error, Headers};

/// Requests that wait for the role at the most; more are slowed down at the socket.
const WAITING_MAX: usize = 1024;

/// What a reply subject never begins with: an answer put there would be an event, a letter, a document, a call of the server's
/// API. Who asks could choose it (BROKER 0 F).
const NO_INBOX: [&str; 6] = ["$", "roadcall.", "dlq.", "carry.", "svc.", "rc.src."];

/// Whether an answer may be sent there. Who asks by a subject that names his site hears the answer under one that names it, too.
fn is_inbox(asked: &str, reply: &str) -> bool {
    let own = asked
        .strip_prefix("svc.roadcall.")
        .and_then(|rest| rest.split_once(".depot."))
        .and_then(|(site, rest)| Some(format!("rc.reply.{site}.{}.", rest.split('.').next()?)));
    match own {
        Some(own) => reply.starts_with(&own),
        None => !NO_INBOX.iter().any(|word| reply.starts_with(word)),
    }
}

/// The subject of a command (DESIGN 10).
#[must_use]
pub fn command_subject(site: &str, command: &str) -> String {
    format!("svc.roadcall.{site}.{command}")
}

/// What a depot asks the hub: `depot.<site>.<verb>`; with `*` for the site, what the hub listens for.
#[must_use]
pub fn depot_command(site: &str, verb: &str) -> String {
    format!("depot.{site}.{verb}")
}

/// A command on its way in.
#[derive(Debug)]
pub struct Request {
    /// `incident.create`.
    pub command: String,
    /// The subject that it came by; says more than the command where that has a wildcard.
    pub subject: String,
    /// As they came.
    pub headers: Headers,
    /// The JSON body.
    pub body: Bytes,
    reply: Option<async_nats::Subject>,
    client: async_nats::Client,
}

impl Request {
    /// Sends the result.
    pub async fn respond(&self, body: Vec<u8>) {
        self.send(HeaderMap::new(), body).await;
    }

    /// Sends an error: `code` as an HTTP status, `text` in one line, and the body for those who read it.
    pub async fn respond_error(&self, code: u16, text: &str, body: Vec<u8>) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", code.to_string());
        headers.insert("Nats-Service-Error", text.replace(['\r', '\n'], " "));
        self.send(headers, body).await;
    }

    async fn send(&self, headers: HeaderMap, body: Vec<u8>) {
        let Some(reply) = self.reply.clone() else {
            return;
        };
        if !is_inbox(&self.subject, &reply) {
            let (command, reply) = (&self.command, reply.as_str());
            tracing::warn!(
                command,
                reply,
                "an answer is wanted where none may go, it is not sent"
            );
            return;
        }
        // A caller who is gone asks again under the same clientRequestId.
        if let Err(error) = self
            .client
            .publish_with_headers(reply, headers, body.into())
            .await
        {
            tracing::warn!(command = self.command, %error, "a reply could not be sent");
        }
    }
}

/// A service that `nats service ls` shows; dropping it stops it.
#[derive(Debug)]
pub struct Service(async_nats::service::Service);

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The JSON body.
    pub body: Bytes,
    /// `Nats-Service-Error-Code`, for a refusal.
    pub error_code: Option<u16>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody serves this command at this site.
    #[error("nobody answers {0}; is the role running?")]
    NoResponder(String),
    /// The outcome is unknown: ask again with the same clientRequestId.
    #[error("no answer to {0} in time; it may have been carried out")]
    Timeout(String),
    /// The connection failed.
    #[error("the broker did not take the request: {0}")]
    Broker(String),
}

fn unavailable(error: async_nats::Error) -> Error {
    Error::Unavailable(error.to_string())
}

impl JetStream {
    /// Announces a service that takes no command yet.
    ///
    /// # Errors
    /// It could not be announced.
    pub async fn announce(&self, name: &str, version: &str) -> Result<Service, Error> {
        let client = &self.inner.client;
        let service = client.service_builder().start(name, version).await;
        service.map(Service).map_err(unavailable)
    }

    /// Takes requests for `commands` (`entity.verb`) of `site`, in order of arrival per command. Each call has a channel
    /// of its own: requests that wait in one keep nobody waiting in another.
    ///
    /// # Errors
    /// The server does not take the subscriptions.
    pub async fn listen(
        &self,
        service: &Service,
        site: &str,
        commands: &[&str],
    ) -> Result<mpsc::Receiver<Request>, Error> {
        let (sender, requests) = mpsc::channel(WAITING_MAX);
        for command in commands {
            let name = command.replace('.', "-").replace('*', "any");
            let endpoint = service.0.endpoint_builder().name(name);
            let mut endpoint = endpoint
                .add(command_subject(site, command))
                .await
                .map_err(unavailable)?;
            let (sender, client) = (sender.clone(), self.inner.client.clone());
            let command = (*command).to_owned();
            tokio::spawn(async move {
                while let Some(request) = endpoint.next().await {
                    let request = Request {
                        command: command.clone(),
                        subject: request.message.subject.to_string(),
                        headers: from_header_map(request.message.headers.as_ref()),
                        body: request.message.payload,
                        reply: request.message.reply,
                        client: client.clone(),
                    };
                    if sender.send(request).await.is_err() {
                        return;
                    }
                }
            });
        }
        // One round trip behind the subscriptions: when it is answered, the server routes commands to us.
        self.api("INFO", &serde_json::Value::Null).await?;
        Ok(requests)
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        site: &str,
        command: &str,
        headers: &Headers,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        // A depot may answer across its link under a subject that names it, and under no other (BROKER 1).
        let inbox = (site != HUB).then_some(site);
        self.request((site, command), inbox, headers, body, timeout)
            .await
    }

    /// Asks the hub from its depot `site`: by a subject that tells the hub who asks, since no other depot may use it, and that
    /// only this one hears the answer of.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call_hub(
        &self,
        site: &str,
        verb: &str,
        headers: &Headers,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let command = depot_command(site, verb);
        let inbox = format!("{HUB}.{site}");
        self.request((HUB, &command), Some(&inbox), headers, body, timeout)
            .await
    }

    /// Sets a consumer on another site's `EVENTS` to `seq`; the answer comes as one of that site's roles would give it.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn reset_at(
        &self,
        site: &str,
        consumer: &str,
        seq: u64,
        timeout: Duration,
    ) -> Result<(), Error> {
        let own = self.inner.client.new_inbox().replace('.', "-");
        let request = async_nats::Request::new()
            .payload(json!({ "seq": seq }).to_string().into())
            .timeout(Some(timeout))
            .inbox(format!("rc.reply.{site}.{own}"));
        let subject = format!("$JS.{site}.API.CONSUMER.RESET.{EVENTS}.{consumer}");
        let reply = self.inner.client.send_request(subject, request).await;
        let reply = reply.map_err(|error| Error::Unavailable(error.to_string()))?;
        let reply: Value = serde_json::from_slice(&reply.payload)
            .map_err(|error| Error::Unavailable(format!("the answer is not JSON: {error}")))?;
        match reply.get("error") {
            Some(error) => Err(super::refusal(consumer, error)),
            None => Ok(()),
        }
    }

    async fn request(
        &self,
        (site, command): (&str, &str),
        inbox: Option<&str>,
        headers: &Headers,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let mut map = HeaderMap::new();
        for (name, value) in &headers.0 {
            map.append(name.as_str(), value.as_str());
        }
        let mut request = async_nats::Request::new()
            .headers(map)
            .payload(body.into())
            .timeout(Some(timeout));
        if let Some(inbox) = inbox {
            let own = self.inner.client.new_inbox().replace('.', "-");
            request = request.inbox(format!("rc.reply.{inbox}.{own}"));
        }
        let reply = self
            .inner
            .client
            .send_request(command_subject(site, command), request)
            .await;
        let reply = reply.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::NoResponders => {
                CallError::NoResponder(command.to_owned())
            }
            async_nats::RequestErrorKind::TimedOut => CallError::Timeout(command.to_owned()),
            _ => CallError::Broker(error.to_string()),
        })?;
        let error_code = reply
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Service-Error-Code"))
            .and_then(|code| code.as_str().parse().ok());
        Ok(Reply {
            body: reply.payload,
            error_code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_to_an_inbox_and_nowhere_else() {
        let asked = "svc.roadcall.hub.incident.get";
        for good in [
            "_INBOX.a.b",
            "_INBOX_own.x",
            "_R_.a.b",
            "rc.reply.depot-a._INBOX-x",
            "mine.x",
        ] {
            assert!(is_inbox(asked, good), "{good}");
        }
        for bad in [
            "$JS.API.STREAM.DELETE.EVENTS",
            "$KV.TOPOLOGY.owner.incident",
            "roadcall.hub.other.Forged.k",
            "dlq.incident-queue.1",
            "carry.depot-a.x",
            "svc.roadcall.hub.incident.create",
            "rc.src.hub.depot-a",
        ] {
            assert!(!is_inbox(asked, bad), "{bad}");
        }
        let of_depot = "svc.roadcall.hub.depot.depot-a.resend";
        assert!(is_inbox(of_depot, "rc.reply.hub.depot-a._INBOX-x"));
        for bad in [
            "rc.reply.hub.depot-b.x",
            "_INBOX.x",
            "_R_.x",
            "roadcall.hub.a.B.k",
        ] {
            assert!(!is_inbox(of_depot, bad), "{bad}");
        }
    }
}
