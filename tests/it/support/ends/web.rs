//! An HTTP server that records requests, headers and raw bodies included, and answers by a script.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// What was done with it.
    pub play: Play,
}

impl Request {
    /// A header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// What makes it the same as another one: the idempotency key, or the webhook's id.
    fn key(&self) -> (&str, &str) {
        (self.header("idempotency-key"), self.header("webhook-id"))
    }
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// The end's own answer.
    Answer,
    /// This status and no words.
    Status(u16),
    /// Taken, and the connection closed without an answer.
    HangUp,
    /// Taken, and answered when the next request has come, or after two seconds.
    Late,
    /// Answered two times on one connection.
    Twice,
    /// Never answered.
    Stall,
}

/// Faults of a single message at most, so that its last try is never one by bad luck.
const FAULTS_OF_ONE: usize = 2;

/// Faults by chance: the shares of requests that are refused with 503, and never answered.
struct Chance {
    random: ChaCha8Rng,
    fail: f64,
    stall: f64,
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub struct Web {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<VecDeque<Play>>>,
    chance: Arc<Mutex<Option<Chance>>>,
    always: Arc<Mutex<Option<Play>>>,
    came: Arc<Notify>,
}

impl Web {
    /// Listens on a free port; `answer` makes the body of a good answer.
    pub async fn start(status: u16, answer: fn(&Request) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let web = Self {
            url: format!("http://{address}"),
            seen: Arc::default(),
            script: Arc::default(),
            chance: Arc::default(),
            always: Arc::default(),
            came: Arc::default(),
        };
        let server = web.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream, status, answer).await });
            }
        });
        web
    }

    /// What the next requests meet; those behind them are answered.
    pub fn script(&self, plays: &[Play]) {
        self.script.lock().expect("held").extend(plays);
    }

    /// What all requests meet from now on; `None` is the end's own answer again.
    pub fn always(&self, play: Option<Play>) {
        *self.always.lock().expect("held") = play;
    }

    /// From now on requests behind the script meet faults by chance from a seed.
    pub fn misbehave(&self, seed: u64, fail: f64, stall: f64) {
        let random = ChaCha8Rng::seed_from_u64(seed);
        let chance = Chance {
            random,
            fail,
            stall,
        };
        *self.chance.lock().expect("held") = Some(chance);
    }

    fn by_chance(&self, request: &Request) -> Play {
        let mut chance = self.chance.lock().expect("held");
        let Some(chance) = chance.as_mut() else {
            return Play::Answer;
        };
        let drawn = chance.random.random::<f64>();
        let seen = self.seen.lock().expect("held");
        let faults = seen
            .iter()
            .filter(|other| other.key() == request.key() && other.play != Play::Answer);
        if faults.count() >= FAULTS_OF_ONE || drawn >= chance.fail + chance.stall {
            Play::Answer
        } else if drawn < chance.fail {
            Play::Status(503)
        } else {
            Play::Stall
        }
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("held").clone()
    }

    async fn serve(&self, stream: TcpStream, status: u16, answer: fn(&Request) -> String) {
        let mut stream = BufReader::new(stream);
        while let Some(mut request) = read(&mut stream).await {
            let scripted = self.script.lock().expect("held").pop_front();
            let always = *self.always.lock().expect("held");
            request.play = always
                .or(scripted)
                .unwrap_or_else(|| self.by_chance(&request));
            self.seen.lock().expect("held").push(request.clone());
            self.came.notify_waiters();
            let good = response(status, &answer(&request));
            let text = match request.play {
                Play::Answer => good,
                Play::Status(status) => response(status, ""),
                Play::HangUp => return,
                Play::Twice => good.repeat(2),
                Play::Late => {
                    let _ =
                        tokio::time::timeout(Duration::from_secs(2), self.came.notified()).await;
                    good
                }
                Play::Stall => std::future::pending().await,
            };
            if stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn response(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    if headers
        .get("content-encoding")
        .is_some_and(|how| how == "gzip")
    {
        let mut plain = Vec::new();
        let mut packed = flate2::read::GzDecoder::new(body.as_slice());
        packed.read_to_end(&mut plain).ok()?;
        body = plain;
    }
    Some(Request {
        path,
        headers,
        body: String::from_utf8(body).ok()?,
        play: Play::Answer,
    })
}
