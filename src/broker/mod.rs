//! The nats-server that this process may run: found, configured, started, watched, stopped (DESIGN 9).

pub mod at_rest;
mod binary;
pub mod durability;
pub mod identities;
mod leftover;
mod links;
pub mod monitor;
mod settings;
mod tls;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use at_rest::{AtRest, Opened};
use binary::numbers;
pub use binary::probe;
use identities::Identities;
pub use links::{Cluster, Leaf, Links, Proof, Remote};
use settings::Listening;
pub use settings::is_here;

/// Oldest nats-server that one site runs on.
pub const FLOOR: (u32, u32, u32) = (2, 10, 25);
/// Oldest nats-server that links sites: durable sourcing, and acks and replies that name their site (BROKER 0 A, C).
pub const LINK_FLOOR: (u32, u32, u32) = (2, 15, 1);
/// Where the child finds the key of its store.
pub(crate) const KEY_VARIABLE: &str = "RC_JS_KEY";
/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(30);

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None was found.
    #[error(
        "no nats-server was found: broker.binary is not set, none is built in, and none is on PATH"
    )]
    NotFound,
    /// It could not be run.
    #[error("{} can't be run: {message}", path.display())]
    NotRunnable {
        /// The binary.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// Good for one site, not for links to others.
    #[error(
        "nats-server {found} can't link sites, 2.15.1 or newer is needed where hub.url or broker.leaf_listen is set"
    )]
    TooOldForLinks {
        /// Its version.
        found: String,
    },
    /// The subjects that an identity may use are those of newer ones.
    #[error(
        "nats-server {found} can't tell identities apart as is needed, 2.15.1 or newer is where bus.identities_dir is set"
    )]
    TooOldForIdentities {
        /// Its version.
        found: String,
    },
    /// Below the floor.
    #[error("nats-server {found} at {} is too old, 2.10.25 or newer is needed", path.display())]
    TooOld {
        /// The binary.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// Its directory or config could not be written.
    #[error("{}: {message}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// Another process runs one on this store.
    #[error("another roadcall runs a nats-server on this store: {} is locked", path.display())]
    Running {
        /// The lock file.
        path: PathBuf,
    },
    /// It ended or did not answer.
    #[error("nats-server did not start: {0}")]
    NotStarted(String),
    /// The file with the store's key.
    #[error("the store key {} {message}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The store and the key do not go together.
    #[error(transparent)]
    Key(#[from] at_rest::Mismatch),
    /// The store did not get its new key.
    #[error("the store's key was not changed: {0}")]
    Rotation(String),
}

/// How to run it.
#[derive(Debug, Clone)]
pub struct Options {
    /// `broker.binary`, if set.
    pub binary: Option<PathBuf>,
    /// Directories to look for one.
    pub path_dirs: Vec<PathBuf>,
    /// The site: name of server and JetStream domain.
    pub site: String,
    /// Where clients connect, `host:port`; port 0 picks a free one.
    pub listen: String,
    /// Where streams are kept.
    pub store_dir: PathBuf,
    /// `always`, or a duration.
    pub sync_interval: String,
    /// Disk that streams may use, bytes.
    pub max_file_store_bytes: u64,
    /// Where its monitoring listens, `http://host:port`; empty picks a free port of this machine.
    pub monitor_url: String,
    /// Its links to other brokers.
    pub links: Links,
    /// Whom it lets in; `None`: whoever reaches it.
    pub identities: Option<Identities>,
    /// The key of an encrypted store; `None` where nobody named a place for one.
    pub at_rest: Option<AtRest>,
}

/// A running, supervised nats-server.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub url: String,
    /// Its version.
    pub version: String,
    settings: settings::Settings,
    /// The server's process, 0 while there is none.
    child: Arc<AtomicI32>,
    stop: CancellationToken,
    watcher: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Where its monitoring answers, `http://host:port`.
    #[must_use]
    pub fn monitor_url(&self) -> String {
        let (host, port) = &self.settings.listening.monitor;
        format!("http://{host}:{port}")
    }

    /// The seed of the server's system account, where it lets depots in.
    #[must_use]
    pub fn system(&self) -> Option<String> {
        let system = self.settings.system.as_ref();
        system.and_then(|pair| pair.seed().ok())
    }

    /// The seed of this process in the site's account, where everybody who comes in needs an identity.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        let owner = self.settings.owner.as_ref();
        // It was made with its seed.
        owner.and_then(|pair| pair.seed().ok())
    }

    /// Gives it other links, without a restart: new depots may connect, removed ones may not come in again. Who is in stays
    /// in until he is cut off. Does nothing where the links are these already.
    ///
    /// # Errors
    /// The server's configuration can't be written.
    pub fn relink(&mut self, links: Links) -> Result<bool, Error> {
        if self.settings.options.links == links {
            return Ok(false);
        }
        self.settings.options.links = links;
        self.settings.write()?;
        self.read_again();
        Ok(true)
    }

    /// Lets others in than before, without a restart; who is in and may be no longer is cut off by the server. Does nothing
    /// where it knows these already, or lets everybody in.
    ///
    /// # Errors
    /// The server's configuration can't be written.
    pub fn admit(&mut self, identities: Identities) -> Result<bool, Error> {
        match &mut self.settings.options.identities {
            Some(known) if *known != identities => *known = identities,
            _ => return Ok(false),
        }
        self.settings.write()?;
        self.read_again();
        Ok(true)
    }

    /// Has it read its configuration and its certificates again. Who is connected stays so.
    pub fn read_again(&self) {
        // A server that is being started again reads them anyway.
        let child = Pid::from_raw(self.child.load(Ordering::Acquire));
        if let Some(Err(error)) = child.map(|pid| kill_process(pid, Signal::HUP)) {
            tracing::warn!(%error, "nats-server was not told to read its configuration");
        }
    }

    /// Stops it and waits for its end.
    pub async fn shutdown(mut self) {
        self.stop().await;
    }

    /// The same, for an owner who can't give it away. A second call does nothing.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if !self.watcher.is_finished() {
            // The watcher ends with the child; a panic in it would only mean that there is nothing left to wait for.
            let _ = (&mut self.watcher).await;
        }
    }
}

/// Finds, configures and starts a nats-server, and waits until JetStream answers. It is started again when it dies.
///
/// # Errors
/// See [`Error`].
pub async fn start(options: Options) -> Result<Running, Error> {
    let found = probe(&options).await?;
    if options.links.any() && numbers(&found.1) < LINK_FLOOR {
        return Err(Error::TooOldForLinks { found: found.1 });
    }
    if options.identities.is_some() && numbers(&found.1) < LINK_FLOOR {
        return Err(Error::TooOldForIdentities { found: found.1 });
    }
    let fail = |path: &Path, error: std::io::Error| Error::Directory {
        path: path.to_owned(),
        message: error.to_string(),
    };
    std::fs::create_dir_all(&options.store_dir).map_err(|error| fail(&options.store_dir, error))?;
    let lock = leftover::lock(&options.store_dir)?;
    leftover::end(
        &options.store_dir,
        &options.store_dir.join("nats-server.conf"),
    )
    .await;
    // Before anything in the store is touched (BROKER 0 E).
    let opened = at_rest::settle(options.at_rest.as_ref(), &options.store_dir)?;
    settings::adopt_store(&options.store_dir).map_err(|error| fail(&options.store_dir, error))?;
    launch(options, found, lock, opened).await
}

/// The same on a store that is taken already and that `opened` opens.
async fn launch(
    options: Options,
    (binary, version): (PathBuf, String),
    lock: std::fs::File,
    opened: Option<Opened>,
) -> Result<Running, Error> {
    let (host, port) = pick_port(&options.listen).await?;
    let monitor = match options.monitor_url.as_str() {
        "" => pick_port("127.0.0.1:0").await?,
        url => monitor::address(url).map_err(Error::NotStarted)?,
    };
    let config = options.store_dir.join("nats-server.conf");
    let listening = Listening {
        host,
        port,
        monitor,
        version: numbers(&version),
    };
    let url = format!("nats://{}:{}", listening.host, listening.port);
    let doors = options.links.leaf_listen.is_some();
    let settings = settings::Settings {
        // New at each start; their seeds are in no file.
        system: doors.then(nkeys::KeyPair::new_user),
        owner: options.identities.is_some().then(nkeys::KeyPair::new_user),
        options,
        listening,
        cipher: opened.as_ref().map(|opened| opened.cipher),
        file: config.clone(),
    };
    settings.write()?;
    let program = Program {
        binary,
        config,
        key: opened.map(|opened| opened.key),
        last_words: LastWords::default(),
    };
    let child = program.spawn()?;
    let stop = CancellationToken::new();
    let mut watched = Watched {
        program,
        child,
        pid: Arc::default(),
        stop: stop.clone(),
        _lock: lock,
    };
    watched.wait_ready(&settings.listening.monitor).await?;
    let child = watched.pid();
    let watcher = tokio::spawn(async move { watched.watch().await });
    Ok(Running {
        url,
        version,
        settings,
        child,
        stop,
        watcher,
    })
}

/// Whether another process runs a nats-server on this store now.
#[must_use]
pub fn in_use(store_dir: &Path) -> bool {
    store_dir.is_dir() && matches!(leftover::lock(store_dir), Err(Error::Running { .. }))
}

async fn pick_port(listen: &str) -> Result<(String, u16), Error> {
    let wrong = || Error::NotStarted(format!("broker.listen '{listen}' is not host:port"));
    let (host, port) = listen.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if port != 0 {
        return Ok((host.to_owned(), port));
    }
    let taken =
        |error: std::io::Error| Error::NotStarted(format!("no free port on {host}: {error}"));
    let listener = TcpListener::bind((host, 0)).await.map_err(taken)?;
    Ok((
        host.to_owned(),
        listener.local_addr().map_err(taken)?.port(),
    ))
}

/// The last fatal line that the server wrote: what a person wants to know when it does not start.
#[derive(Debug, Clone, Default)]
struct LastWords(Arc<Mutex<Option<String>>>);

impl LastWords {
    fn set(&self, line: &str) {
        let words = line.split_once("[FTL] ").map_or(line, |(_, words)| words);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.to_owned());
    }

    fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What is run, again and again.
struct Program {
    binary: PathBuf,
    config: PathBuf,
    /// Handed to the child by its environment, which only its user reads: arguments and files are seen by more.
    key: Option<at_rest::StoreKey>,
    last_words: LastWords,
}

impl Program {
    fn spawn(&self) -> Result<Child, Error> {
        let mut command = Command::new(&self.binary);
        if let Some(key) = &self.key {
            command.env(KEY_VARIABLE, key.quoted());
        }
        let mut child = command
            .arg("--config")
            .arg(&self.config)
            // Pipes, not /dev/null: a root without devices is enough. It reads no input and logs to stderr.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal from the terminal is ours to pass on, after the roles have stopped.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::NotRunnable {
                path: self.binary.clone(),
                message: error.to_string(),
            })?;
        if let Some(stderr) = child.stderr.take() {
            let last_words = self.last_words.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                let mut told = "";
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.contains("[FTL]") {
                        last_words.set(&line);
                    }
                    if let Some((what, help)) = tls::trouble(&line) {
                        // Each try of a link says it again.
                        if told != what {
                            tracing::error!(what, help, broker = line, "a link is refused");
                            told = what;
                        }
                    } else if line.contains("[ERR]") || line.contains("[FTL]") {
                        tracing::error!(broker = line, "nats-server says");
                    } else if line.contains("[WRN]") {
                        tracing::warn!(broker = line, "nats-server says");
                    } else {
                        tracing::debug!(broker = line, "nats-server says");
                    }
                }
            });
        }
        Ok(child)
    }
}

struct Watched {
    program: Program,
    child: Child,
    /// The process id of `child`, for those who only send it a signal.
    pid: Arc<AtomicI32>,
    stop: CancellationToken,
    /// Held until the server has ended.
    _lock: std::fs::File,
}

impl Watched {
    /// Where the server's process id is, 0 while there is none.
    fn pid(&self) -> Arc<AtomicI32> {
        self.note_pid();
        Arc::clone(&self.pid)
    }

    fn note_pid(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        self.pid.store(pid.unwrap_or(0), Ordering::Release);
    }

    async fn wait_ready(&mut self, monitor: &(String, u16)) -> Result<(), Error> {
        let started = tokio::time::timeout(START_MAX, async {
            loop {
                if let Ok(Some(status)) = self.child.try_wait() {
                    // Its last line may still be on its way through the pipe.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let words = self.program.last_words.get();
                    return Err(Error::NotStarted(
                        words.unwrap_or_else(|| format!("it ended with {status}")),
                    ));
                }
                if monitor::jetstream_answers(monitor).await {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        started
            .await
            .unwrap_or_else(|_| Err(Error::NotStarted("JetStream does not answer".to_owned())))
    }

    /// Starts it again when it dies, until told to stop; then lets it finish.
    async fn watch(mut self) {
        let mut delay = Duration::from_millis(200);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                status = self.child.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    self.pid.store(0, Ordering::Release);
                    tracing::error!(status, "nats-server ended, it is started again");
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(10));
            match self.program.spawn() {
                Ok(child) => {
                    self.child = child;
                    self.note_pid();
                }
                Err(error) => tracing::error!(%error, "nats-server can't be started again"),
            }
        }
        if let Some(pid) = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
        {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(Duration::from_secs(10), self.child.wait())
            .await
            .is_err()
        {
            tracing::warn!("nats-server does not stop, it is killed");
            let _ = self.child.kill().await;
        }
    }
}
