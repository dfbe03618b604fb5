//! The bus on a real nats-server, through `async_nats`.
//!
//! [`JetStream`] is a connection that never gives up reconnecting; `publish` sends, `pull` keeps one standing pull per
//! queue, [`service`] answers and sends commands. Requests of the JetStream API are made by hand in JSON, so that what we
//! rely on (identities, sequences, error codes) is what the server said.

mod as_bus;
pub mod identity;
mod kv;
mod leaders;
pub mod objects;
mod publish;
mod pull;
pub mod queue_info;
pub mod raw;
pub mod service;
pub mod system;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use chrono::DateTime;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use identity::Identity;
pub use publish::Form;

use super::{Bus, EVENTS, Error, Headers, QueueState, stream_of_queue};

/// Oldest nats-server that one site runs on (DESIGN 9).
pub const SERVER_FLOOR: (u32, u32, u32) = (2, 10, 25);
/// JetStream API level from which CONSUMER.RESET exists (BROKER 5).
const LEVEL_RESET: u64 = 4;
/// JetStream API level from which atomic batches exist.
const LEVEL_ATOMIC: u64 = 2;

/// How often, and how far apart, a JetStream that does not answer is asked again before it is held to be none.
const NOBODY_TRIES: u32 = 10;
const NOBODY_WAIT: Duration = Duration::from_millis(100);

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct Config {
    /// `nats://host:port`, with user and password in it where needed; several servers of one cluster with commas between.
    pub url: String,
    /// Credentials file.
    pub credentials: Option<PathBuf>,
    /// As whom, where the server knows its clients; takes the place of `credentials`.
    pub identity: Option<Identity>,
    /// The authorities that the server's certificate is to be signed by, a PEM file; with it the connection is TLS.
    pub ca_file: Option<PathBuf>,
    /// Shown by the server's monitoring.
    pub name: String,
    /// For the first connection.
    pub connect_timeout: Duration,
    /// For each request to the server.
    pub request_timeout: Duration,
    /// How to publish many messages.
    pub publish: Form,
}

/// A connection to a site's broker. Clones share it.
#[derive(Debug, Clone)]
pub struct JetStream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    /// Ends the watch for new leaders with the last clone; it would hold the connection open else.
    _watched: DropGuard,
    /// How often queues have got another leader.
    leaders: Arc<AtomicU64>,
    epoch: Arc<AtomicU64>,
    request_timeout: Duration,
    publish: Form,
    pulls: Mutex<HashMap<String, Arc<Mutex<pull::Slot>>>>,
    /// API level and whether `EVENTS` takes atomic batches, with the epoch they were read in.
    features: Mutex<Option<(u64, Features)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Features {
    api_level: u64,
    atomic: bool,
}

impl JetStream {
    /// Connects, and refuses a server that is too old or has no JetStream.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody answers, [`Error::Unsuitable`] with the version or the setting that is wrong.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let epoch = Arc::new(AtomicU64::new(0));
        let connections = Arc::clone(&epoch);
        let begun = match &config.identity {
            Some(identity) => identity.options(),
            None => ConnectOptions::new(),
        };
        let mut options = begun
            .name(&config.name)
            .connection_timeout(config.connect_timeout)
            .request_timeout(Some(config.request_timeout))
            .client_capacity(4096)
            .subscription_capacity(256 * 1024)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                let connections = Arc::clone(&connections);
                async move {
                    match event {
                        async_nats::Event::Connected => {
                            connections.fetch_add(1, Ordering::SeqCst);
                            tracing::info!("connected to the broker");
                        }
                        async_nats::Event::Disconnected => {
                            tracing::warn!("disconnected from the broker")
                        }
                        other => tracing::warn!(event = %other, "the broker connection reports"),
                    }
                }
            });
        if let Some(identity) = &config.identity {
            // A seed that can't be used is told as such, not as a server that does not answer.
            identity.check().map_err(Error::Unsuitable)?;
        } else if let Some(path) = &config.credentials {
            options = options.credentials_file(path).await.map_err(|error| {
                Error::Unsuitable(format!(
                    "the credentials {} can't be read: {error}",
                    path.display()
                ))
            })?;
        }
        if let Some(ca) = &config.ca_file {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        // The client library takes no account of a user in the address.
        let addresses = addresses(&config.url)?;
        if config.identity.is_none()
            && let Some(address) = addresses.first()
            && let Some(user) = address.username()
        {
            let password = address.password().unwrap_or_default();
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        let client = tokio::time::timeout(config.connect_timeout * 2, options.connect(addresses))
            .await
            .map_err(|_| Error::Unavailable("no connection in time".to_owned()))?
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        check_version(&client.server_info().version)?;
        let watched = CancellationToken::new();
        let leaders = leaders::watch(&client, Arc::clone(&epoch), watched.clone()).await?;
        let inner = Inner {
            _watched: watched.drop_guard(),
            leaders,
            client,
            epoch,
            request_timeout: config.request_timeout,
            publish: config.publish,
            pulls: Mutex::default(),
            features: Mutex::default(),
        };
        let bus = Self {
            inner: Arc::new(inner),
        };
        bus.features().await?;
        Ok(bus)
    }

    /// Version of the server behind the connection.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.inner.client.server_info().version
    }

    /// The server's JetStream domain, if it has one: advisories of other sites cross leafs, and this tells them apart
    /// (BROKER 3).
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        self.inner.client.server_info().domain
    }

    /// The server process that queues are read from: the one behind the connection, and in a cluster those that lead the
    /// queues now.
    fn server_id(&self) -> String {
        let id = self.inner.client.server_info().server_id;
        match self.inner.leaders.load(Ordering::SeqCst) {
            0 => id,
            count => format!("{id}+{count}"),
        }
    }

    /// Sends what is buffered and closes the connection.
    pub async fn close(&self) {
        // Closing is best effort: what matters is in stores and streams by now.
        let _ = self.inner.client.drain().await;
    }

    /// One request of the JetStream API: `subject` without `$JS.API.`.
    ///
    /// # Errors
    /// [`Error::Missing`] for a stream or consumer that is not there, [`Error::Refused`] with the server's code.
    pub async fn api(&self, subject: &str, request: &Value) -> Result<Value, Error> {
        let payload = if request.is_null() {
            Bytes::new()
        } else {
            Bytes::from(request.to_string())
        };
        let mut tries = 0;
        let reply = loop {
            let asked = format!("$JS.API.{subject}");
            let error = match self.inner.client.request(asked, payload.clone()).await {
                Ok(reply) => break reply,
                Err(error) => error,
            };
            match error.kind() {
                // While the server reads its configuration again, as it does when a depot is added or removed, nobody answers.
                async_nats::RequestErrorKind::NoResponders if tries < NOBODY_TRIES => tries += 1,
                async_nats::RequestErrorKind::NoResponders => {
                    return Err(Error::Unsuitable(
                        "the broker has no JetStream for this account; enable it in the server's config".to_owned(),
                    ));
                }
                _ => return Err(Error::Unavailable(error.to_string())),
            }
            tokio::time::sleep(NOBODY_WAIT).await;
        };
        let reply: Value = serde_json::from_slice(&reply.payload).map_err(|error| {
            Error::Unavailable(format!("the answer to {subject} is not JSON: {error}"))
        })?;
        match reply.get("error") {
            Some(error) => Err(refusal(subject, error)),
            None => Ok(reply),
        }
    }

    async fn features(&self) -> Result<Features, Error> {
        let epoch = self.connection_epoch();
        let mut kept = self.inner.features.lock().await;
        if let Some((of_epoch, features)) = *kept
            && of_epoch == epoch
        {
            return Ok(features);
        }
        let info = self.api("INFO", &Value::Null).await?;
        let api_level = info["api"]["level"].as_u64().unwrap_or(0);
        let atomic = match self
            .api(&format!("STREAM.INFO.{EVENTS}"), &Value::Null)
            .await
        {
            Ok(info) => api_level >= LEVEL_ATOMIC && info["config"]["allow_atomic"] == true,
            // Before `topology apply` there is no stream to ask; not remembered, so that it is asked again.
            Err(Error::Missing(_)) => {
                return Ok(Features {
                    api_level,
                    atomic: false,
                });
            }
            Err(error) => return Err(error),
        };
        let features = Features { api_level, atomic };
        *kept = Some((epoch, features));
        Ok(features)
    }

    async fn consumer_info(&self, queue: &str) -> Result<Value, Error> {
        let stream = stream_of_queue(queue);
        self.api(&format!("CONSUMER.INFO.{stream}.{queue}"), &Value::Null)
            .await
    }

    /// Makes the server hand out everything that is not acked anew, at once and in order.
    async fn restart_delivery(&self, queue: &str) -> Result<QueueState, Error> {
        let before = queue_state(&self.consumer_info(queue).await?);
        let name = stream_of_queue(queue);
        let stream = self.stream(name).await?;
        if before.delivered_seq > stream.last_seq {
            // The stream was rolled back behind the consumer: sequences are given out again, and what comes under them
            // is new. The inbox drops what is not.
            tracing::warn!(
                queue,
                delivered_seq = before.delivered_seq,
                last_seq = stream.last_seq,
                "the stream was rolled back, the queue starts over"
            );
            self.reset_to(queue, stream.first_seq.max(1)).await?;
        } else if self.features().await?.api_level >= LEVEL_RESET {
            self.api(&format!("CONSUMER.RESET.{name}.{queue}"), &Value::Null)
                .await?;
        } else {
            self.reset_to(queue, before.ack_floor_seq + 1).await?;
        }
        Ok(before)
    }

    /// Makes `queue` start over at stream sequence `seq`: what is in hand is forgotten.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn reset_to(&self, queue: &str, seq: u64) -> Result<(), Error> {
        let stream = stream_of_queue(queue);
        if self.features().await?.api_level >= LEVEL_RESET {
            self.api(
                &format!("CONSUMER.RESET.{stream}.{queue}"),
                &json!({ "seq": seq }),
            )
            .await?;
            return Ok(());
        }
        let info = self.consumer_info(queue).await?;
        let mut config = info["config"].clone();
        config["deliver_policy"] = json!("by_start_sequence");
        config["opt_start_seq"] = json!(seq.max(1));
        self.api(&format!("CONSUMER.DELETE.{stream}.{queue}"), &Value::Null)
            .await?;
        let request = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.api(&format!("CONSUMER.CREATE.{stream}.{queue}"), &request)
            .await?;
        Ok(())
    }
}

/// The servers of `url`, which has commas between them.
fn addresses(url: &str) -> Result<Vec<async_nats::ServerAddr>, Error> {
    let parse = |one: &str| one.trim().parse::<async_nats::ServerAddr>();
    // The text may have a password in it.
    url.split(',')
        .map(parse)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            Error::Unavailable(format!(
                "bus.url is no list of addresses like nats://host:4222: {error}"
            ))
        })
}

fn refusal(subject: &str, error: &Value) -> Error {
    let code = error["err_code"].as_u64().unwrap_or(0);
    let message = error["description"]
        .as_str()
        .unwrap_or("no reason given")
        .to_owned();
    match code {
        10059 | 10014 => Error::Missing(subject.split('.').skip(2).collect::<Vec<_>>().join(" ")),
        10039 => Error::Unsuitable(
            "the broker has no JetStream for this account; enable it in the server's config"
                .to_owned(),
        ),
        _ => Error::Refused { code, message },
    }
}

fn check_version(version: &str) -> Result<(), Error> {
    let mut numbers = version
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (
        numbers.next().unwrap_or(0),
        numbers.next().unwrap_or(0),
        numbers.next().unwrap_or(0),
    );
    if found >= SERVER_FLOOR {
        return Ok(());
    }
    let (major, minor, patch) = SERVER_FLOOR;
    Err(Error::Unsuitable(format!(
        "nats-server {version} is too old, {major}.{minor}.{patch} or newer is needed"
    )))
}

/// Quick at first, then every two seconds, spread so that a depot's roles do not knock all at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let base_ms = (50_u64 << attempts.min(6)).min(2_000);
    let spread = uuid::Uuid::new_v4().as_bytes()[0];
    Duration::from_millis(base_ms * 3 / 4 + base_ms * u64::from(spread) / 512)
}

fn created_ns(info: &Value) -> Result<i64, Error> {
    info["created"]
        .as_str()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .and_then(|time| time.timestamp_nanos_opt())
        .ok_or_else(|| {
            Error::Unavailable("the server did not say when the stream was created".to_owned())
        })
}

fn from_header_map(map: Option<&HeaderMap>) -> Headers {
    let mut headers = Headers::default();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        for value in values {
            headers.push(name.to_string(), value.as_str());
        }
    }
    headers
}

fn queue_state(info: &Value) -> QueueState {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    QueueState {
        delivered_seq: number(&info["delivered"]["stream_seq"]),
        ack_floor_seq: number(&info["ack_floor"]["stream_seq"]),
        ack_pending: number(&info["num_ack_pending"]),
        pending: number(&info["num_pending"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_below_the_floor_are_refused_by_version() {
        assert!(check_version("2.10.25").is_ok());
        assert!(check_version("2.15.1").is_ok());
        assert!(check_version("2.15.0-dev").is_ok());
        let error = check_version("2.9.16").expect_err("too old").to_string();
        assert_eq!(
            error,
            "nats-server 2.9.16 is too old, 2.10.25 or newer is needed"
        );
    }
}
