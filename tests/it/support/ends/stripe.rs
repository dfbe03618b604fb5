//! A Stripe: PaymentIntents, transfers, refunds and reversals over HTTP, each made once per idempotency key and counted. On
//! demand it fails, stalls, charges and then says nothing, or answers twice, by chance from a seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, Mac};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::RwLock;

pub const KEY: &str = "sk_test_end";
pub const WEBHOOK_SECRET: &str = "whsec_end";

/// How often, as shares of all creations, it misbehaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Answers 500 and does nothing.
    pub fail: f64,
    /// Does nothing and never answers.
    pub stall: f64,
    /// Does it and never answers.
    pub lose: f64,
    /// Does it and answers twice.
    pub twice: f64,
    /// So many creations go well first.
    pub after: u64,
    /// It answers no question either.
    pub mute: bool,
}

#[derive(Default)]
struct State {
    faults: Faults,
    /// Intents end at once, as with a card that was confirmed before.
    confirm: bool,
    creations: u64,
    by_key: BTreeMap<String, (String, Value)>,
    /// How often the deed behind a key was done.
    done: BTreeMap<String, u64>,
    /// What went wrong with requests themselves: a missing header, other parameters under one key.
    complaints: Vec<String>,
}

/// The end. It lives as long as its runtime.
#[derive(Clone)]
pub struct StripeEnd {
    pub url: String,
    /// Whoever holds it for writing keeps every answer to a creation back.
    pub gate: Arc<RwLock<()>>,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    form: BTreeMap<String, String>,
}

enum Fate {
    Well,
    Fail,
    Stall,
    Lose,
    Twice,
}

impl StripeEnd {
    pub async fn start(seed: u64, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State {
            faults,
            ..State::default()
        };
        let end = Self {
            url: format!("http://{address}"),
            gate: Arc::default(),
            state: Arc::new(Mutex::new(state)),
        };
        let random = Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed)));
        let listening = end.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (end, random) = (listening.clone(), Arc::clone(&random));
                tokio::spawn(async move {
                    // A client that went away is what these tests are about.
                    let _ = end.serve(stream, &random).await;
                });
            }
        });
        end
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked with it")
    }

    pub fn misbehave(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// From now on intents succeed at once.
    pub fn confirm_at_once(&self) {
        self.state().confirm = true;
    }

    /// The card holder confirms.
    pub fn confirm(&self, reference: &str) {
        let mut state = self.state();
        let objects = state.by_key.values_mut().map(|(_, object)| object);
        let intent = objects.into_iter().find(|object| object["id"] == reference);
        intent.expect("an intent")["status"] = json!("succeeded");
    }

    /// How often the deed behind each key was done.
    pub fn done(&self) -> BTreeMap<String, u64> {
        self.state().done.clone()
    }

    /// How many creations were asked for, whatever became of them.
    pub fn creations(&self) -> u64 {
        self.state().creations
    }

    pub fn complaints(&self) -> Vec<String> {
        self.state().complaints.clone()
    }

    /// All objects of a kind: payment_intent, transfer, refund, transfer_reversal.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let state = self.state();
        let objects = state.by_key.values().map(|(_, object)| object);
        objects
            .filter(|object| object["object"] == kind)
            .cloned()
            .collect()
    }

    async fn serve(
        &self,
        mut stream: TcpStream,
        random: &Mutex<ChaCha8Rng>,
    ) -> std::io::Result<()> {
        let request = read(&mut stream).await?;
        if request.method == "GET" {
            if self.state().faults.mute {
                return std::future::pending().await;
            }
            let (status, body) = self.look(&request);
            return write(&mut stream, status, &body, 1).await;
        }
        let fate = self.fate(random);
        drop(self.gate.read().await);
        if let Fate::Fail = fate {
            return write(
                &mut stream,
                500,
                &json!({ "error": { "type": "api_error" } }),
                1,
            )
            .await;
        }
        if let Fate::Stall = fate {
            return until_gone(&mut stream).await;
        }
        let (status, body) = self.create(&request);
        match fate {
            Fate::Lose => until_gone(&mut stream).await,
            Fate::Twice => write(&mut stream, status, &body, 2).await,
            _ => write(&mut stream, status, &body, 1).await,
        }
    }

    fn fate(&self, random: &Mutex<ChaCha8Rng>) -> Fate {
        let mut state = self.state();
        state.creations += 1;
        let faults = state.faults;
        if state.creations <= faults.after {
            return Fate::Well;
        }
        let mut left: f64 = random.lock().expect("nobody panicked with it").random();
        for (share, fate) in [
            (faults.fail, Fate::Fail),
            (faults.stall, Fate::Stall),
            (faults.lose, Fate::Lose),
            (faults.twice, Fate::Twice),
        ] {
            if left < share {
                return fate;
            }
            left -= share;
        }
        Fate::Well
    }

    fn create(&self, request: &Request) -> (u16, Value) {
        let mut state = self.state();
        let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
        let wrong =
            |kind: &str| json!({ "error": { "type": "invalid_request_error", "code": kind } });
        if header("authorization") != format!("Bearer {KEY}") {
            return (401, wrong("invalid_api_key"));
        }
        let (key, version) = (header("idempotency-key"), header("stripe-version"));
        if key.is_empty() || version.is_empty() {
            state
                .complaints
                .push(format!("{}: a header is missing", request.path));
            return (400, wrong("parameter_missing"));
        }
        let asked = format!("{} {:?}", request.path, request.form);
        if let Some((before, object)) = state.by_key.get(&key) {
            if *before != asked {
                let complaint = format!("{key}: other parameters than before");
                state.complaints.push(complaint);
                return (400, wrong("idempotency_error"));
            }
            return (200, object.clone());
        }
        if request
            .form
            .get("destination")
            .is_some_and(|account| account == "acct_closed")
        {
            return (400, wrong("account_closed"));
        }
        let (kind, prefix) = match request.path.as_str() {
            "/v1/payment_intents" => ("payment_intent", "pi"),
            "/v1/transfers" => ("transfer", "tr"),
            "/v1/refunds" => ("refund", "re"),
            path if path.ends_with("/reversals") => ("transfer_reversal", "trr"),
            _ => return (404, wrong("resource_missing")),
        };
        let mut object =
            json!({ "id": format!("{prefix}_{}", state.by_key.len() + 1), "object": kind });
        let mut metadata = serde_json::Map::new();
        for (name, value) in &request.form {
            match name
                .strip_prefix("metadata[")
                .and_then(|name| name.strip_suffix(']'))
            {
                Some(name) => {
                    metadata.insert(name.to_owned(), json!(value));
                }
                None => {
                    object[name] = value
                        .parse::<u64>()
                        .map_or(json!(value), |number| json!(number))
                }
            }
        }
        object["metadata"] = Value::Object(metadata);
        match kind {
            "payment_intent" => {
                object["client_secret"] =
                    json!(format!("{}_secret_x", object["id"].as_str().expect("text")));
                let status = if state.confirm {
                    "succeeded"
                } else {
                    "requires_payment_method"
                };
                object["status"] = json!(status);
            }
            "refund" => object["status"] = json!("succeeded"),
            _ => {}
        }
        *state.done.entry(key.clone()).or_default() += 1;
        state.by_key.insert(key, (asked, object.clone()));
        (200, object)
    }

    fn look(&self, request: &Request) -> (u16, Value) {
        let state = self.state();
        let objects: Vec<&Value> = state.by_key.values().map(|(_, object)| object).collect();
        let list = |wanted: &dyn Fn(&Value) -> bool| {
            let found: Vec<&Value> = objects
                .iter()
                .copied()
                .filter(|object| wanted(object))
                .collect();
            (200, json!({ "data": found }))
        };
        let asked = |name: &str| request.form.get(name).cloned().unwrap_or_default();
        match request.path.as_str() {
            "/v1/payment_intents/search" => {
                let query = asked("query");
                let key = query.split('\'').nth(3).unwrap_or_default().to_owned();
                list(&move |object| {
                    object["object"] == "payment_intent"
                        && object["metadata"]["idempotency_key"] == key.as_str()
                })
            }
            "/v1/transfers" => {
                list(&|object| object["transfer_group"] == asked("transfer_group").as_str())
            }
            "/v1/refunds" => list(&|object| {
                object["object"] == "refund"
                    && object["payment_intent"] == asked("payment_intent").as_str()
            }),
            path => {
                let id = path.rsplit('/').next().unwrap_or_default();
                match objects.iter().find(|object| object["id"] == id) {
                    Some(object) => (200, (*object).clone()),
                    None => (404, json!({ "error": { "code": "resource_missing" } })),
                }
            }
        }
    }
}

/// A webhook's body and its `Stripe-Signature`, signed at `now_secs`.
pub fn webhook(event_id: &str, kind: &str, object: &Value, now_secs: i64) -> Value {
    let event =
        json!({ "id": event_id, "type": kind, "created": now_secs, "data": { "object": object } });
    let payload = event.to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(WEBHOOK_SECRET.as_bytes()).expect("any length");
    mac.update(format!("{now_secs}.{payload}").as_bytes());
    let code = mac.finalize().into_bytes();
    let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "payload": payload, "signature": format!("t={now_secs},v1={hex}") })
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Request> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..n]);
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length.unwrap_or(0) {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        body.extend_from_slice(&buffer[..n]);
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let form = if method == "GET" {
        query.as_bytes().to_vec()
    } else {
        body
    };
    Ok(Request {
        method,
        path: path.to_owned(),
        headers,
        form: form_urlencoded::parse(&form).into_owned().collect(),
    })
}

async fn write(
    stream: &mut TcpStream,
    status: u16,
    body: &Value,
    times: usize,
) -> std::io::Result<()> {
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.repeat(times).as_bytes()).await
}

/// Says nothing until the client gives up.
async fn until_gone(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 64];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
