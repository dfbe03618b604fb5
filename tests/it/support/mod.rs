//! A real nats-server per test, on a free port with a store of its own, killed on drop; and waiting for conditions.

pub mod counting;
pub mod ends;
pub mod processes;
pub mod reference;
pub mod schema;
pub mod stage;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roadcall::broker::{Options, Running, start};
use roadcall::bus::jetstream::{Config, Form, JetStream};
use tempfile::TempDir;

/// The nats-server that `make broker` fetches.
pub fn nats_server() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/broker/nats-server");
    assert!(
        path.is_file(),
        "no nats-server at {}; run `make broker`",
        path.display()
    );
    path
}

/// A broker and the directory that goes with it.
pub struct Site {
    pub broker: Running,
    pub dir: TempDir,
}

/// Starts one.
pub async fn site() -> Site {
    let dir = TempDir::new().expect("a directory");
    let broker = broker(dir.path(), "127.0.0.1:0").await;
    Site { broker, dir }
}

async fn broker(dir: &Path, listen: &str) -> Running {
    let options = Options {
        binary: Some(nats_server()),
        path_dirs: Vec::new(),
        site: "hub".to_owned(),
        listen: listen.to_owned(),
        store_dir: dir.join("nats"),
        sync_interval: "always".to_owned(),
        max_file_store_bytes: 10 << 30,
        monitor_url: String::new(),
    };
    start(options).await.expect("the broker starts")
}

impl Site {
    /// Stops the broker and starts another process on the same port and store.
    pub async fn restart(&mut self) {
        let url = self.broker.url.clone();
        self.broker.stop().await;
        let listen = url.trim_start_matches("nats://");
        self.broker = broker(self.dir.path(), listen).await;
    }
}

/// Connects to it.
pub async fn connect(site: &Site) -> JetStream {
    let config = Config {
        url: site.broker.url.clone(),
        credentials: None,
        name: "test".to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        publish: Form::default(),
    };
    JetStream::connect(config).await.expect("connected")
}

/// Asks until the answer is there; fails with `what` after half a minute.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(600, what, &mut ask).await
}

/// The same for what comes only after a call's time is up: fails after two minutes.
pub async fn patiently<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(2_400, what, &mut ask).await
}

async fn within<T, F>(times: u32, what: &str, ask: &mut impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    for _ in 0..times {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not happen");
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
