//! Certificates that change while a process runs: looked at every few seconds and on SIGHUP, and told to who shows them. Who
//! is connected stays so; whoever comes from then on sees the new ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::broker;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::tls::{self, Own};

/// How often the files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// What this process's broker shows, and what was said of files that do not fit.
pub(super) struct Certificates {
    broker: Option<OfBroker>,
    trouble: Option<tls::Error>,
}

/// The files that nats-server reads by itself; it is told to when they have changed and fit.
struct OfBroker {
    own: Arc<Own>,
    ca_file: PathBuf,
    ca: Vec<u8>,
}

impl Certificates {
    /// To be made before the broker starts: what changes from then on is seen.
    pub(super) fn new(config: &Config, embedded: bool) -> Self {
        let (cert, key, links) = (&config.tls.cert_file, &config.tls.key_file, &config.broker);
        let alone = links.leaf_listen.is_empty()
            && links.cluster_listen.is_empty()
            && broker::is_here(&links.listen);
        let own = (embedded && config.tls.has_cert() && !alone)
            .then(|| Own::read(cert.as_ref(), key.as_ref()))
            // nats-server refuses to start with what can't be read, and says so.
            .and_then(Result::ok);
        let ca_file = PathBuf::from(&config.tls.ca_file);
        let ca = std::fs::read(&ca_file).unwrap_or_default();
        Self {
            broker: own.map(|own| OfBroker { own, ca_file, ca }),
            trouble: None,
        }
    }

    /// Looks at the files, and has those that changed shown.
    pub(super) fn look(&mut self, gateway: Option<&Gateway>, broker: Option<&broker::Running>) {
        let mut trouble = None;
        let mut told = |looked: Result<bool, tls::Error>, who: &str| match looked {
            Ok(true) => {
                tracing::info!(
                    who,
                    "other certificates are there: new connections see them"
                );
                true
            }
            Ok(false) => false,
            Err(error) => {
                trouble = Some(error);
                false
            }
        };
        if let Some(gateway) = gateway {
            told(gateway.look(), "gateway");
        }
        if let (Some(files), Some(broker)) = (&mut self.broker, broker)
            && told(files.look(), "broker")
        {
            broker.read_again();
        }
        if let Some(error) = &trouble
            && self.trouble.as_ref() != Some(error)
        {
            tracing::warn!(%error, "the certificates stay as they were");
        }
        self.trouble = trouble;
    }
}

impl OfBroker {
    fn look(&mut self) -> Result<bool, tls::Error> {
        let own = self.own.look()?;
        // A depot has none; what can't be read now is looked at again.
        let ca = std::fs::read(&self.ca_file).unwrap_or_else(|_| self.ca.clone());
        let other = ca != self.ca;
        self.ca = ca;
        Ok(own || other)
    }
}
