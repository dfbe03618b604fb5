//! What goes wrong, as a person sees it: `error[RC…]: sentence`, then `  help: what to do`; with `--json` one object.

use serde_json::{Value, json};

use crate::bus::jetstream::service::CallError;
use crate::config::Problem;
use crate::{broker, bus, node, store};

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
    /// A command without a reply.
    Call(CallError),
    /// A role's refusal: the `error` object of DOMAIN 1.3.
    Refused(Value),
    /// Nobody reads what is printed any more.
    Closed,
    /// Something else, in a sentence, with what to do.
    Other(String, String),
}

impl Failure {
    pub(super) fn usage(message: &str, help: &str) -> Self {
        Self::Usage(message.to_owned(), help.to_owned())
    }

    pub(super) fn other(message: impl Into<String>, help: &str) -> Self {
        Self::Other(message.into(), help.to_owned())
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(..) | Self::Config(_) => 64,
            Self::Closed => 0,
            Self::Node(node::run::Error::Rules { .. } | node::run::Error::NotBuilt(_)) => 64,
            _ => 1,
        }
    }

    /// Code, sentence and help of each thing that is wrong.
    fn lines(&self) -> Vec<(String, String, Option<String>)> {
        let one = |code: &str, message: String, help: &str| {
            vec![(
                code.to_owned(),
                message,
                (!help.is_empty()).then(|| help.to_owned()),
            )]
        };
        match self {
            Self::Usage(message, help) => one("RC0001", message.clone(), help),
            Self::Config(problems) => problems
                .iter()
                .map(|problem| {
                    let message =
                        format!("{} in {}: {}", problem.key, problem.origin, problem.message);
                    (
                        "RC0101".to_owned(),
                        message.trim_start_matches(" in ").to_owned(),
                        problem.help.clone(),
                    )
                })
                .collect(),
            Self::Bus(error) => bus_lines(error),
            Self::Broker(error) => one(
                broker_code(error),
                error.to_string(),
                "see broker.binary, or put a nats-server on PATH",
            ),
            Self::Node(error) => node_lines(error),
            Self::Call(error) => one(
                "RC0501",
                error.to_string(),
                "the same --idempotency-key makes a retry safe",
            ),
            Self::Refused(error) => {
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                let field = error["field"]
                    .as_str()
                    .map(|field| format!("field: {field}"));
                vec![(text("code"), text("message"), field)]
            }
            Self::Closed => Vec::new(),
            Self::Other(message, help) => one("RC0002", message.clone(), help),
        }
    }

    pub(super) fn print(&self, json: bool) {
        for (code, message, help) in self.lines() {
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

fn bus_lines(error: &bus::Error) -> Vec<(String, String, Option<String>)> {
    let (code, help) = match error {
        bus::Error::Unavailable(_) => (
            "RC0201",
            "is the broker running, and is bus.url (or --nats) right?",
        ),
        bus::Error::Refused { .. } => ("RC0202", "the broker's log says more"),
        bus::Error::Missing(_) => ("RC0203", "run roadcall topology apply --yes"),
        bus::Error::Unsuitable(_) => ("RC0204", "install the nats-server that make broker fetches"),
    };
    vec![(code.to_owned(), error.to_string(), Some(help.to_owned()))]
}

fn broker_code(error: &broker::Error) -> &'static str {
    match error {
        broker::Error::NotFound => "RC0210",
        broker::Error::NotRunnable { .. } => "RC0211",
        broker::Error::TooOld { .. } => "RC0212",
        broker::Error::Directory { .. } => "RC0213",
        broker::Error::NotStarted(_) => "RC0214",
        broker::Error::Running { .. } => "RC0215",
    }
}

fn node_lines(error: &node::run::Error) -> Vec<(String, String, Option<String>)> {
    use node::run::Error as E;
    let (code, help) = match error {
        E::Bus(error) => return bus_lines(error),
        E::Store(error) => store_line(error),
        E::Rules { .. } => (
            "RC0102",
            "mend the rules file, or leave rules.file empty for the shipped rules",
        ),
        E::StateDir { .. } => (
            "RC0302",
            "make it writable for this user, or set site.state_dir",
        ),
        E::Locked { .. } => (
            "RC0303",
            "stop the other process, or give this one its own site.state_dir",
        ),
        E::Drift(_) => (
            "RC0203",
            "run roadcall topology plan, then roadcall topology apply --yes",
        ),
        E::NotBuilt(_) => (
            "RC0103",
            "this build runs incident, vendor, match, tracking, audit",
        ),
    };
    vec![(code.to_owned(), error.to_string(), Some(help.to_owned()))]
}

fn store_line(error: &store::Error) -> (&'static str, &'static str) {
    match error.class {
        store::Class::Full => (
            "RC0310",
            "free some space; nothing that was accepted is lost",
        ),
        store::Class::Io => (
            "RC0311",
            "the disk may be failing; look at the system's log",
        ),
        store::Class::Corrupt => ("RC0312", "restore the file from a snapshot"),
        store::Class::ReadOnly => ("RC0313", "make the state directory writable for this user"),
        store::Class::Busy => ("RC0314", "another process holds the file; stop it"),
        store::Class::NewerSchema => ("RC0315", "run the newer roadcall that wrote it"),
        store::Class::Defect => (
            "RC0316",
            "this is a defect of roadcall; report it with the log",
        ),
    }
}

impl From<bus::Error> for Failure {
    fn from(error: bus::Error) -> Self {
        Self::Bus(error)
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

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}
