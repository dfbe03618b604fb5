//! Metrics in a file for the textfile collector of node_exporter: for processes that open no port. By its rules the file ends in
//! `.prom`, appears whole or not at all, has no time stamps, and is in the older text format.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{PREFIX, SiteMetrics, look};
use crate::config::Config;
use crate::node::clock::Clock;
use crate::node::connections::Connections;
use crate::role::RoleName;

/// Writes the file again and again.
#[derive(Debug)]
pub struct Textfile {
    stop: CancellationToken,
    writing: JoinHandle<()>,
}

impl Textfile {
    /// Begins, where the configuration names a directory. `process` is what tells the files of one machine apart: the names after
    /// `--role`.
    #[must_use]
    pub fn start(
        buses: &Connections,
        config: &Config,
        process: &str,
        roles: &[RoleName],
    ) -> Option<Self> {
        let dir = &config.metrics.textfile_dir;
        if dir.is_empty() {
            return None;
        }
        let stop = CancellationToken::new();
        let writer = Writer::new(buses, config, process, roles);
        let writing = tokio::spawn(writer.run(stop.clone()));
        Some(Self { stop, writing })
    }

    /// Ends, and takes the file away: what is not there can be noticed, what is old can't.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if self.writing.await.is_err() {
            tracing::error!("the metrics' file ended by a panic");
        }
    }
}

struct Writer {
    buses: Connections,
    config: Config,
    roles: Vec<RoleName>,
    path: PathBuf,
    registry: Registry,
    metrics: SiteMetrics,
    written: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Writer {
    fn new(buses: &Connections, config: &Config, process: &str, roles: &[RoleName]) -> Self {
        let site = &config.site.id;
        let name = format!("{PREFIX}-{site}-{process}.prom");
        // The collector puts all files of a machine together: without these the broker would be told twice.
        let labels = [("site", site.clone()), ("process", process.to_owned())];
        let labels = labels.map(|(name, value)| (name.into(), value.into()));
        let mut registry = Registry::with_prefix_and_labels(PREFIX, labels.into_iter());
        let written = Gauge::default();
        let help = "When this file was written";
        registry.register("textfile_written_timestamp_seconds", help, written.clone());
        Self {
            buses: buses.clone(),
            config: config.clone(),
            roles: roles.to_vec(),
            path: Path::new(&config.metrics.textfile_dir).join(name),
            metrics: SiteMetrics::register(&mut registry),
            registry,
            written,
        }
    }

    async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.config.metrics.textfile_every.0);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let state = tokio::select! {
                () = stop.cancelled() => break,
                state = look(&self.buses, &self.config, &self.roles) => state,
            };
            self.metrics.show(&state);
            let result = self.write();
            if let Err(error) = &result
                && !fails
            {
                // Once, not each time: the log is not for this alone.
                tracing::error!(path = %self.path.display(), %error, "the metrics can't be written");
            }
            fails = result.is_err();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    fn write(&self) -> std::io::Result<()> {
        self.written.set(Clock.now().ms() as f64 / 1000.0);
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        put(&self.path, &older_format(&text))
    }
}

/// Puts a whole file in the place of the one before. The collector may run as another user: everybody may read it.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(path)
        .map(|_| ())
        .map_err(|failed| failed.error)
}

/// The same numbers in the text format 0.0.4: there a counter's help and type have the name of its samples.
fn older_format(text: &str) -> String {
    let counters: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut older = String::with_capacity(text.len());
    for line in text.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        let head = (words.next(), words.next(), words.next(), words.next());
        match head {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                older.push_str(&format!("# {kind} {name}_total {rest}"));
            }
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_one_name_and_nothing_is_said_of_an_end() {
        let text = "# HELP a_sent Sent.\n# TYPE a_sent counter\na_sent_total{x=\"y\"} 3\n# HELP b Big.\n# TYPE b gauge\nb 1\n# EOF\n";
        let older = "# HELP a_sent_total Sent.\n# TYPE a_sent_total counter\na_sent_total{x=\"y\"} 3\n# HELP b Big.\n# TYPE b gauge\nb 1\n";
        assert_eq!(older_format(text), older);
    }
}
