//! Logs to stderr, for people on a terminal, else as JSON lines; the level can change while the process runs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// A switch for the level.
pub(super) struct Logging(Box<dyn Fn(EnvFilter) + Send>);

impl Logging {
    /// Sets another level.
    pub(super) fn set(&self, level: &str) {
        (self.0)(filter(level));
    }
}

/// Starts logging. A second call (the demo starts roles in its own process) keeps the first subscriber.
pub(super) fn start(level: &str) -> Logging {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    // The two are of different types all the way through.
    macro_rules! install {
        ($builder:expr) => {{
            let builder = $builder
                .with_env_filter(filter(level))
                .with_filter_reloading();
            let handle = builder.reload_handle();
            // Fails where a subscriber is there already; the switch then leads nowhere.
            let _ = builder.try_init();
            Logging(Box::new(move |filter| drop(handle.reload(filter))))
        }};
    }
    if std::io::stderr().is_terminal() {
        install!(builder)
    } else {
        install!(builder.json())
    }
}

/// The client library tells of each connection what we tell ourselves. A level that can't be read was refused as
/// configuration before.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_new(format!("async_nats=warn,{level}"))
        .unwrap_or_else(|_| EnvFilter::new("info"))
}
