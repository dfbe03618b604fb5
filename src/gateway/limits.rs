//! How often somebody may ask (DOMAIN 6, rate limits).

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::problem::Problem;
use crate::config::Gateway;
use crate::event::Id;
use crate::role::permission::Permission;

/// Keys are forgotten once so many more requests came.
const FORGET_EVERY: u64 = 10_000;

/// The limits in force.
pub(super) struct Limits {
    commands: DefaultKeyedRateLimiter<String>,
    sensitive: DefaultKeyedRateLimiter<String>,
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    hooks: DefaultKeyedRateLimiter<String>,
    asked: std::sync::atomic::AtomicU64,
}

/// `n` in `period`, which may come all at once.
fn quota(n: NonZeroU32, period: Duration) -> Quota {
    Quota::with_period(period / n.get())
        .unwrap_or_else(|| Quota::per_minute(n))
        .allow_burst(n)
}

impl Limits {
    pub(super) fn new(config: &Gateway) -> Self {
        let minute = Duration::from_secs(60);
        Self {
            commands: RateLimiter::keyed(quota(config.commands_per_minute, minute)),
            sensitive: RateLimiter::keyed(quota(config.sensitive_per_minute, minute)),
            addresses: RateLimiter::keyed(quota(config.address_per_5_minutes, 5 * minute)),
            hooks: RateLimiter::keyed(quota(config.webhooks_per_minute, minute)),
            asked: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Any request from an address.
    pub(super) fn address(&self, address: IpAddr) -> Result<(), Problem> {
        let asked = self
            .asked
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if asked % FORGET_EVERY == FORGET_EVERY - 1 {
            self.forget();
        }
        check(&self.addresses, &address, "requests from this address")
    }

    /// A command of a person; payments and administration have a smaller limit of their own.
    pub(super) fn command(&self, who: &str, permission: Permission) -> Result<(), Problem> {
        let who = who.to_owned();
        if sensitive(permission) {
            return check(&self.sensitive, &who, "payment and admin commands");
        }
        check(&self.commands, &who, "commands")
    }

    /// A provider's webhook.
    pub(super) fn hook(&self, provider: &str) -> Result<(), Problem> {
        check(&self.hooks, &provider.to_owned(), "webhooks")
    }

    /// Drops the keys that are back at rest, or the maps would grow with every caller ever seen.
    fn forget(&self) {
        self.commands.retain_recent();
        self.sensitive.retain_recent();
        self.addresses.retain_recent();
        self.hooks.retain_recent();
    }
}

/// Commands about money and about the platform itself.
fn sensitive(permission: Permission) -> bool {
    use Permission as P;
    matches!(
        permission,
        P::PaymentApprove
            | P::PaymentProcess
            | P::PaymentConfirm
            | P::AdminUsers
            | P::AdminConfig
            | P::AdminOps
            | P::VendorVerify
            | P::KbEdit
    )
}

fn check<K: std::hash::Hash + Eq + Clone>(
    limiter: &DefaultKeyedRateLimiter<K>,
    key: &K,
    what: &str,
) -> Result<(), Problem> {
    limiter.check_key(key).map_err(|not_until| {
        let wait = not_until.wait_time_from(DefaultClock::default().now());
        Problem::too_many(what, wait.as_secs() + 1)
    })
}

/// Whom a limit counts: the person, wherever he comes from.
pub(super) fn person(id: Option<Id>, address: IpAddr) -> String {
    id.map_or_else(|| format!("address:{address}"), |id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_payment_command_of_a_minute_waits_and_other_people_do_not() {
        let limits = Limits::new(&Gateway::default());
        for n in 0..10 {
            assert!(
                limits.command("a", Permission::PaymentApprove).is_ok(),
                "{n}"
            );
        }
        let refused = limits.command("a", Permission::PaymentApprove);
        let problem = refused.expect_err("over the limit");
        assert_eq!(problem.status.as_u16(), 429);
        assert!(limits.command("b", Permission::PaymentApprove).is_ok());
        assert!(limits.command("a", Permission::IncidentView).is_ok());
    }
}
