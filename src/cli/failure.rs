//! What goes wrong, as a person sees it: `error[RC…]: sentence`, then `  help: what to do`; with `--json` one object.
//! Codes, exit codes and their pages stand in [`crate::error`]; here is which failure has which, and the help that fits it.

use serde_json::{Value, json};

use crate::bus::jetstream::service::CallError;
use crate::config::Problem;
use crate::error::ErrorCode as C;
use crate::node::inquiry;
use crate::{broker, bus, gateway, node, store};

/// A command that did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Wrong arguments.
    Usage(String, String),
    /// A wrong configuration, every problem of it.
    Config(Vec<Problem>),
    /// The broker.
    Bus(bus::Error),
    /// The embedded broker.
    Broker(broker::Error),
    /// A site that does not run.
    Node(node::run::Error),
    /// A snapshot.
    Snapshot(node::snapshot::Error),
    /// The door over HTTP.
    Gateway(gateway::Error),
    /// A command without a reply.
    Call(CallError),
    /// A role's refusal: the `error` object of DOMAIN 1.3.
    Refused(Value),
    /// Nobody reads what is printed any more.
    Closed,
    /// Something else, in a sentence, with what to do.
    Other(String, String),
}

/// One thing that is wrong.
#[derive(Debug)]
pub(super) struct Line {
    /// An RC code, or a role's code.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Line {
    fn of(code: C, message: impl Into<String>, help: &str) -> Self {
        Self {
            code: code.to_string(),
            message: message.into(),
            help: (!help.is_empty()).then(|| help.to_owned()),
        }
    }
}

impl Failure {
    pub(super) fn usage(message: &str, help: &str) -> Self {
        Self::Usage(message.to_owned(), help.to_owned())
    }

    pub(super) fn other(message: impl Into<String>, help: &str) -> Self {
        Self::Other(message.into(), help.to_owned())
    }

    pub(super) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Closed) {
            return 0;
        }
        let exits = self
            .lines()
            .into_iter()
            .filter_map(|line| C::parse(&line.code));
        exits.map(|code| code.page().exit).max().unwrap_or(1)
    }

    /// Everything that is wrong.
    pub(super) fn lines(&self) -> Vec<Line> {
        match self {
            Self::Usage(message, help) => vec![Line::of(C::Usage, message, help)],
            Self::Config(problems) => problems.iter().map(problem_line).collect(),
            Self::Bus(error) => vec![bus_line(error)],
            Self::Broker(error) => vec![broker_line(error)],
            Self::Node(error) => vec![node_line(error)],
            Self::Snapshot(error) => vec![snapshot_line(error)],
            Self::Gateway(error) => vec![Line::of(
                C::DoorClosed,
                error.to_string(),
                match error {
                    gateway::Error::Listen { .. } => "choose another gateway.listen",
                    gateway::Error::Tls(_) => {
                        "roadcall auth init makes a certificate and its key; gateway.tls = \"off\" leaves TLS to what stands before it"
                    }
                },
            )],
            Self::Call(error) => vec![Line::of(
                C::NoReply,
                error.to_string(),
                "the same --idempotency-key makes a retry safe",
            )],
            Self::Refused(error) => {
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                let field = error["field"]
                    .as_str()
                    .map(|field| format!("field: {field}"));
                vec![Line {
                    code: text("code"),
                    message: text("message"),
                    help: field,
                }]
            }
            Self::Closed => Vec::new(),
            Self::Other(message, help) => vec![Line::of(C::Failed, message, help)],
        }
    }

    pub(super) fn print(&self, json: bool) {
        for Line {
            code,
            message,
            help,
        } in self.lines()
        {
            if json {
                eprintln!(
                    "{}",
                    json!({ "code": code, "message": message, "help": help })
                );
                continue;
            }
            eprintln!("error[{code}]: {message}");
            if let Some(help) = help {
                eprintln!("  help: {help}");
            }
        }
    }
}

fn problem_line(problem: &Problem) -> Line {
    let message = match (problem.key.as_str(), problem.origin.as_str()) {
        ("", origin) => format!("{origin}: {}", problem.message),
        (key, origin) => format!("{key} in {origin}: {}", problem.message),
    };
    Line::of(
        C::Config,
        message,
        problem.help.as_deref().unwrap_or_default(),
    )
}

fn bus_line(error: &bus::Error) -> Line {
    let (code, help) = match error {
        bus::Error::Unavailable(_) => (
            C::BrokerDown,
            "is the broker running, and is bus.url (or --nats) right?",
        ),
        bus::Error::Refused { .. } => (C::BrokerRefused, "the broker's log says more"),
        bus::Error::Missing(_) => (C::Drift, "run roadcall topology apply --yes"),
        bus::Error::Unsuitable(_) => (
            C::Unsuitable,
            "install the nats-server that make broker fetches",
        ),
    };
    Line::of(code, error.to_string(), help)
}

fn broker_line(error: &broker::Error) -> Line {
    use broker::Error as E;
    let (code, help) = match error {
        E::NotFound => (
            C::NoBroker,
            "set broker.binary, put a nats-server on PATH, or set broker.mode to external",
        ),
        E::NotRunnable { .. } => (
            C::BrokerNotRunnable,
            "run it by hand with --version; set broker.binary to a good one",
        ),
        E::TooOld { .. } => (
            C::BrokerTooOld,
            "set broker.binary to a newer one, for example the one that make broker fetches",
        ),
        E::TooOldForIdentities { .. } => (
            C::BrokerTooOld,
            "set broker.binary to a newer one, or leave bus.identities_dir empty",
        ),
        E::TooOldForLinks { .. } => (
            C::BrokerTooOld,
            "set broker.binary to a newer one, or let the site stand alone",
        ),
        E::Directory { .. } => (
            C::BrokerDirectory,
            "make it writable for this user, or set broker.store_dir or site.state_dir",
        ),
        E::Running { .. } => (
            C::BrokerRunning,
            "stop the other process, or give this one its own broker.store_dir",
        ),
        E::NotStarted(_) => (
            C::BrokerNotStarted,
            "is broker.listen taken? nats-server --config with the file in its store directory says more",
        ),
        E::KeyFile { .. } => (
            C::Config,
            "broker.store_key_file names a file of mode 0600 with the key, one line of at least 32 characters, and nothing else",
        ),
        E::Key(mismatch) => (C::StoreKey, mismatch_help(mismatch)),
        E::Rotation(_) => (C::Failed, "the store opens with the key that it had"),
    };
    Line::of(code, error.to_string(), help)
}

fn mismatch_help(mismatch: &broker::at_rest::Mismatch) -> &'static str {
    use broker::at_rest::Mismatch as M;
    match mismatch {
        M::Wrong { .. } | M::Missing { .. } => {
            "name the file with the store's key in broker.store_key_file; nothing was started, and the store is as it was"
        }
        M::Plain { .. } => {
            "roadcall auth rotate-store-key --yes encrypts it with that key; or take the key away"
        }
        M::Unknown { .. } => {
            "bring back the file jetstream/RC/store-key of the store, or restore the directory from a copy"
        }
        M::Cipher { .. } => "set broker.store_cipher to the one that the store has",
    }
}

fn node_line(error: &node::run::Error) -> Line {
    use node::run::Error as E;
    let (code, help) = match error {
        E::Bus(error) => return bus_line(error),
        E::Store(error) => return store_line(error),
        E::Rules { .. } => (
            C::Rules,
            "mend the rules file, or leave rules.file empty for the shipped rules",
        ),
        E::Secret { .. } => (
            C::Config,
            "make the file readable for this user only, with the secret and nothing else in it",
        ),
        E::Keys { .. } => (
            C::Config,
            "docs/privacy.md says where keys are and how to keep them",
        ),
        E::StateDir { .. } => (
            C::StateDir,
            "make it writable for this user, or set site.state_dir",
        ),
        E::Locked { .. } => (
            C::Locked,
            "stop the other process, or give this one its own site.state_dir",
        ),
        E::Owned { .. } => (
            C::Owned,
            "is site.state_dir (--state-dir) the right one? roadcall explain RC0304 says when to adopt",
        ),
        E::Drift(_) => (
            C::Drift,
            "run roadcall topology plan, then roadcall topology apply --yes",
        ),
        E::ArchiveHidden { .. } => (
            C::ArchiveHidden,
            "give the server the key that the store was written with, or restore the directory from a copy",
        ),
        E::Trace(_) => (
            C::Config,
            "a header a line, like authorization: Bearer …, in a file that this user can read",
        ),
        E::NotBuilt(_) => (
            C::NotBuilt,
            "this build runs incident, vendor, match, tracking, audit",
        ),
    };
    Line::of(code, error.to_string(), help)
}

fn snapshot_line(error: &node::snapshot::Error) -> Line {
    use node::snapshot::Error as E;
    let (code, help) = match error {
        E::Bus(error) => return bus_line(error),
        E::Store(error) => return store_line(error),
        E::Node(error) => return node_line(error),
        E::File { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => (
            C::DiskFull,
            "free some space; the database that was there is untouched",
        ),
        E::File { .. } => (
            C::StateDir,
            "make it writable for this user, or set site.state_dir",
        ),
        E::Damaged { .. } => (
            C::SnapshotDamaged,
            "choose another one of roadcall snapshot list by --id",
        ),
        E::None { .. } => (C::Failed, "roadcall snapshot list shows what there is"),
        E::OtherSite { .. } => (C::Failed, "is --site right?"),
        E::Runs(_) => (C::Locked, "stop it first"),
        E::There { .. } => (C::Usage, "give --yes if it is to be replaced"),
    };
    Line::of(code, error.to_string(), help)
}

fn store_line(error: &store::Error) -> Line {
    let (code, help) = match error.class {
        store::Class::Full => (
            C::DiskFull,
            "free some space; nothing that was accepted is lost",
        ),
        store::Class::Io => (
            C::DiskFailed,
            "the disk may be failing; look at the system's log",
        ),
        store::Class::Corrupt => (C::Corrupt, "restore the file from a snapshot"),
        store::Class::ReadOnly => (
            C::ReadOnly,
            "make the state directory writable for this user",
        ),
        store::Class::Busy => (C::Busy, "another process holds the file; stop it"),
        store::Class::NewerSchema => (C::NewerSchema, "run the newer roadcall that wrote it"),
        store::Class::NoKey | store::Class::UnknownKey => (
            C::Busy,
            "the audit role's process keeps the keys; is it running?",
        ),
        store::Class::Defect => (
            C::Defect,
            "this is a defect of roadcall; report it with the log",
        ),
    };
    Line::of(code, error.to_string(), help)
}

impl From<bus::Error> for Failure {
    fn from(error: bus::Error) -> Self {
        Self::Bus(error)
    }
}

impl From<node::sites::Error> for Failure {
    fn from(error: node::sites::Error) -> Self {
        match error {
            node::sites::Error::Bus(error) => Self::Bus(error),
            other => Self::other(other.to_string(), ""),
        }
    }
}

impl From<broker::Error> for Failure {
    fn from(error: broker::Error) -> Self {
        Self::Broker(error)
    }
}

impl From<node::run::Error> for Failure {
    fn from(error: node::run::Error) -> Self {
        Self::Node(error)
    }
}

impl From<node::snapshot::Error> for Failure {
    fn from(error: node::snapshot::Error) -> Self {
        Self::Snapshot(error)
    }
}

impl From<gateway::Error> for Failure {
    fn from(error: gateway::Error) -> Self {
        Self::Gateway(error)
    }
}

impl From<inquiry::Error> for Failure {
    fn from(error: inquiry::Error) -> Self {
        match error {
            inquiry::Error::Bus(error) => Self::Bus(error),
            inquiry::Error::Refused(error) => Self::Refused(error),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}
