//! The connections of a process: one for what is the process's own, and one for each of its roles that has an identity.

use std::collections::BTreeMap;

use super::preflight::{self, Who};
use crate::bus;
use crate::bus::jetstream::JetStream;
use crate::config::Config;
use crate::ops::identities::GATEWAY;
use crate::role::RoleName;

/// See the module. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Connections {
    /// The process's: it makes the topology, where it may, and sees to what is nobody's alone.
    own: JetStream,
    /// Those who do not share it.
    others: BTreeMap<&'static str, JetStream>,
}

impl From<JetStream> for Connections {
    fn from(own: JetStream) -> Self {
        Self {
            own,
            others: BTreeMap::new(),
        }
    }
}

impl Connections {
    /// Connects as `config` says, under `name`. Where the broker knows identities each role has its own, and so has the gateway;
    /// the process is `owner`, which runs the broker, or else the first of them.
    ///
    /// # Errors
    /// One connection can't be made.
    pub async fn open(
        config: &Config,
        name: &str,
        roles: &[RoleName],
        gateway: bool,
        owner: Option<&str>,
    ) -> Result<Self, bus::Error> {
        let connect = async |who: Who<'_>| {
            let connection = preflight::connection(config, name, who);
            JetStream::connect(connection).await
        };
        let names = roles.iter().map(|role| role.as_str());
        let mut names = names.chain(gateway.then_some(GATEWAY));
        if !preflight::has_identities(config) {
            return Ok(connect(Who::Identity(&config.bus.identity)).await?.into());
        }
        let (own, mut others) = match owner {
            Some(seed) => (connect(Who::Owner(seed)).await?, BTreeMap::new()),
            None => {
                let first = names.next().unwrap_or(&config.bus.identity);
                let own = connect(Who::Identity(first)).await?;
                let mut others = BTreeMap::new();
                if let Some(first) = roles.first() {
                    others.insert(first.as_str(), own.clone());
                } else if gateway {
                    others.insert(GATEWAY, own.clone());
                }
                (own, others)
            }
        };
        for name in names {
            others.insert(name, connect(Who::Identity(name)).await?);
        }
        Ok(Self { own, others })
    }

    /// The process's own.
    #[must_use]
    pub fn own(&self) -> &JetStream {
        &self.own
    }

    /// A role's.
    #[must_use]
    pub fn of(&self, role: RoleName) -> &JetStream {
        self.others.get(role.as_str()).unwrap_or(&self.own)
    }

    /// The gateway's.
    #[must_use]
    pub fn of_gateway(&self) -> &JetStream {
        self.others.get(GATEWAY).unwrap_or(&self.own)
    }

    /// Whether each role sees no more of the broker than is its own.
    #[must_use]
    pub fn apart(&self) -> bool {
        !self.others.is_empty()
    }

    /// Closes them all.
    pub async fn close(&self) {
        for bus in self.others.values() {
            bus.close().await;
        }
        self.own.close().await;
    }
}
