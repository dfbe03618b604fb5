//! Logs to stderr: for people on a terminal, as lines with a syslog level for the journal, else as JSON lines. The level of
//! what is logged can change while the process runs.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::registry::LookupSpan;

use crate::config::journal_stream;

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
    // They are of different types all the way through.
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
    if to_journal() {
        let line = format().without_time().with_level(false).with_ansi(false);
        install!(builder.with_ansi(false).event_format(Journal(line)))
    } else if std::io::stderr().is_terminal() {
        install!(builder)
    } else {
        install!(builder.json())
    }
}

/// Whether stderr is what the journal reads: a shell or a test may have inherited the variable, and another stderr.
fn to_journal() -> bool {
    let Ok(stderr) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    journal_stream() == Some((stderr.st_dev, stderr.st_ino))
}

/// Lines as the journal likes them: it puts the time to each by itself, and takes the level from `<N>` at the front.
struct Journal<F>(F);

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{level}>")?;
        self.0.format_event(context, writer, event)
    }
}

/// The client library tells of each connection what we tell ourselves. A level that can't be read was refused as
/// configuration before.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_new(format!("async_nats=warn,{level}"))
        .unwrap_or_else(|_| EnvFilter::new("info"))
}
