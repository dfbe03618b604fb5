//! Secrets that the service manager hands on: a key that names a file may say `credential:NAME`.
//!
//! In a unit that is the file with which systemd answers `LoadCredential=secret:/etc/roadcall/secrets`; by hand it is the
//! file `secrets/NAME` beside the first configuration file, which root may read.

use std::path::Path;

use super::{Config, Problem};

const PREFIX: &str = "credential:";
/// What systemd puts before the name of each file of the directory.
const LOADED_AS: &str = "secret_";

/// Puts the file's path in the place of each `credential:NAME`. `given` is where the service manager put them.
pub(super) fn resolve(
    config: &mut Config,
    given: Option<&Path>,
    beside: &Path,
    origin: &dyn Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) {
    for (key, value) in keys(config) {
        let Some(name) = value.strip_prefix(PREFIX) else {
            continue;
        };
        let fits = !name.is_empty()
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !fits {
            problems.push(Problem {
                key: key.to_owned(),
                origin: origin(key),
                message: format!("'{name}' is no name of a credential"),
                help: Some(
                    "give the name of a file in the directory secrets, without a path".to_owned(),
                ),
            });
            continue;
        }
        let path = match given {
            Some(dir) => dir.join(format!("{LOADED_AS}{name}")),
            None => beside.join("secrets").join(name),
        };
        *value = path.display().to_string();
    }
}

/// Every key that names a file with a secret in it.
fn keys(config: &mut Config) -> [(&'static str, &mut String); 12] {
    let (stripe, messages) = (&mut config.payments.stripe, &mut config.notifications);
    [
        ("bus.creds", &mut config.bus.creds),
        ("tls.key_file", &mut config.tls.key_file),
        ("privacy.key_file", &mut config.privacy.key_file),
        ("broker.store_key_file", &mut config.broker.store_key_file),
        (
            "payments.stripe.secret_key_file",
            &mut stripe.secret_key_file,
        ),
        (
            "payments.stripe.webhook_secret_file",
            &mut stripe.webhook_secret_file,
        ),
        ("notifications.sms_token_file", &mut messages.sms_token_file),
        (
            "notifications.smtp_password_file",
            &mut messages.smtp_password_file,
        ),
        (
            "notifications.push_secret_file",
            &mut messages.push_secret_file,
        ),
        (
            "telephony.webhook_secret_file",
            &mut config.telephony.webhook_secret_file,
        ),
        (
            "audit.alarm_webhook_secret_file",
            &mut config.audit.alarm_webhook_secret_file,
        ),
        ("trace.headers_file", &mut config.trace.headers_file),
    ]
}
