//! A real nats-server per test, on a free port with a store of its own, killed on drop; and waiting for conditions.

pub mod account;
pub mod certs;
pub mod counting;
pub mod ends;
pub mod noting;
pub mod processes;
pub mod reference;
pub mod schema;
pub mod stage;
pub mod unfixed;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roadcall::broker::{Links, Options, Running, start};
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
        links: Links::default(),
        at_rest: None,
        identities: None,
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

    /// Copies the broker's store, for [`Self::roll_back`].
    pub fn copy_store(&self) -> PathBuf {
        let older = self.dir.path().join("older");
        processes::copy_dir(&self.dir.path().join("nats"), &older);
        older
    }

    /// The same from an older copy of the store, as after a power cut: what came later is gone.
    pub async fn roll_back(&mut self, older: &Path) {
        let url = self.broker.url.clone();
        self.broker.stop().await;
        let store = self.dir.path().join("nats");
        std::fs::remove_dir_all(&store).expect("removed");
        processes::copy_dir(older, &store);
        let listen = url.trim_start_matches("nats://");
        self.broker = broker(self.dir.path(), listen).await;
    }
}

/// Connects to it.
pub async fn connect(site: &Site) -> JetStream {
    let config = Config {
        url: site.broker.url.clone(),
        credentials: None,
        identity: None,
        ca_file: None,
        name: "test".to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        publish: Form::default(),
    };
    JetStream::connect(config).await.expect("connected")
}

/// Asks until the answer is there; fails with `what` after half a minute.
pub async fn eventually<T, F>(what: &str, ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    eventually_within(30, what, ask).await
}

/// The same for two minutes: where an open breaker takes half a minute to try again.
pub async fn patiently<T, F>(what: &str, ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    eventually_within(120, what, ask).await
}

/// The same with more patience, for much work.
pub async fn eventually_within<T, F>(seconds: u32, what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    for _ in 0..20 * seconds {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not happen");
}

/// Waits until `count` is `wanted`, for as long as it grows.
pub async fn grows_to(what: &str, wanted: u64, count: impl AsyncFn() -> u64) {
    let mut last = count().await;
    while last < wanted {
        last = eventually(what, || async {
            let now = count().await;
            (now > last).then_some(now)
        })
        .await;
    }
    assert_eq!(last, wanted, "{what}");
}

/// `full` in the long form, which `ROADCALL_FULL=1` asks for, else `short`.
pub fn sized(short: u64, full: u64) -> u64 {
    match std::env::var("ROADCALL_FULL").as_deref() {
        Ok("1") => full,
        _ => short,
    }
}

/// A port that nobody listens on now, below those that the kernel gives to connections: one of these could take it before
/// whoever asked listens. Each is given once in a process, and processes begin at different ones.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id()
            .wrapping_mul(997)
            .wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = u16::try_from(FIRST + n % COUNT).expect("below 32,000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
