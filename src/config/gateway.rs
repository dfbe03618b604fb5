//! The door over HTTP: where it listens, in TLS or not, and how much it takes.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units::{Size, Span};
use super::{Config, Tls};

/// The door over HTTP (`--role gateway`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gateway {
    /// Where it listens; port 0 picks a free one.
    pub listen: String,
    /// Whether it speaks TLS 1.3: `auto` does where it listens beyond this machine and there is a `tls.cert_file`, `on` in
    /// any case, `off` never (something before it does).
    pub tls: GatewayTls,
    /// A larger body is refused.
    pub body_max: Size,
    /// Commands of one person in a minute (DOMAIN 6).
    pub commands_per_minute: NonZeroU32,
    /// Payment and admin commands of one person in a minute (DOMAIN 6).
    pub sensitive_per_minute: NonZeroU32,
    /// Requests from one address in five minutes (DOMAIN 6).
    pub address_per_5_minutes: NonZeroU32,
    /// Webhooks of one provider in a minute (DOMAIN 6).
    pub webhooks_per_minute: NonZeroU32,
    /// Event streams of one person at once (DOMAIN 5.4).
    pub subscriptions_per_user: usize,
    /// Connections at once.
    pub connections_max: usize,
    /// How long requests that run may take at a stop.
    pub drain: Span,
}

/// See [`Gateway::tls`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum GatewayTls {
    Auto,
    On,
    Off,
}

impl Gateway {
    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_here(&self) -> bool {
        let listen = self.listen.parse::<SocketAddr>();
        listen.is_ok_and(|listen| listen.ip().is_loopback())
    }

    /// Whether it speaks TLS, with this section `tls`.
    #[must_use]
    pub fn in_tls(&self, tls: &Tls) -> bool {
        match self.tls {
            GatewayTls::Auto => tls.has_cert() && !self.is_here(),
            GatewayTls::On => true,
            GatewayTls::Off => false,
        }
    }
}

/// A number from DOMAIN 6, which are all above 0.
const fn limit(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not 0")
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8480".to_owned(),
            tls: GatewayTls::Auto,
            body_max: Size(256 << 10),
            commands_per_minute: limit(100),
            sensitive_per_minute: limit(10),
            address_per_5_minutes: limit(2000),
            webhooks_per_minute: limit(1000),
            subscriptions_per_user: 5,
            connections_max: 1024,
            drain: Span::secs(10),
        }
    }
}

impl Check<'_> {
    pub(super) fn gateway(&mut self, config: &Config) {
        let gateway = &config.gateway;
        if gateway.listen.parse::<std::net::SocketAddr>().is_err() {
            self.refuse(
                "gateway.listen",
                format!("'{}' is no address and port", gateway.listen),
                "write it like 127.0.0.1:8480 or [::1]:8480",
            );
        }
        if gateway.tls == GatewayTls::On && !config.tls.has_cert() {
            self.refuse(
                "gateway.tls",
                "on needs tls.cert_file and tls.key_file",
                "roadcall auth init makes both",
            );
        }
        let body_max = gateway.body_max.0;
        if !(1024..=16 << 20).contains(&body_max) {
            self.refuse(
                "gateway.body_max",
                format!("{body_max} bytes are not from 1KiB to 16MiB"),
                "",
            );
        }
        for (key, value) in [
            (
                "gateway.subscriptions_per_user",
                gateway.subscriptions_per_user,
            ),
            ("gateway.connections_max", gateway.connections_max),
        ] {
            self.within(key, &value, &(1..=65_536));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_speaks_tls_beyond_this_machine_where_it_can_and_where_it_is_told_to() {
        let with = |cert: &str| Tls {
            cert_file: cert.to_owned(),
            key_file: cert.to_owned(),
            ..Tls::default()
        };
        let (none, some) = (with(""), with("cert.pem"));
        let gateway = |listen: &str, tls| Gateway {
            listen: listen.to_owned(),
            tls,
            ..Gateway::default()
        };
        for (listen, beyond) in [
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
        ] {
            let auto = gateway(listen, GatewayTls::Auto);
            assert_eq!(
                (auto.in_tls(&none), auto.in_tls(&some)),
                (false, beyond),
                "{listen}"
            );
            assert!(gateway(listen, GatewayTls::On).in_tls(&some));
            assert!(!gateway(listen, GatewayTls::Off).in_tls(&some));
        }
    }
}
