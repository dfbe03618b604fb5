//! Who carries messages to people, and the numbers of the role notifications, from the section `notifications`.

use std::sync::Arc;

use super::super::clock::Clock;
use crate::config::{Config, EmailDriver, Notifications, PushDriver, SmsDriver, SmtpTls};
use crate::provider::logged::Logged;
use crate::provider::push::Push;
use crate::provider::sms::{Account, Sms};
use crate::provider::smtp::{Server, Smtp, Tls};
use crate::provider::{Believed, Runner};
use crate::role::notifications::{Inbound, Options};
use crate::store::Secret;

/// The secret that stands in a key or in a file. One that can't be read is told and is empty: whoever asks for it is then
/// refused by the service, and the delivery log says so.
fn secret(key: &str, value: &str, file: &str) -> Secret {
    if file.is_empty() {
        return Secret::new(value);
    }
    match std::fs::read_to_string(file) {
        Ok(text) => Secret::new(text.trim()),
        Err(error) => {
            tracing::error!(key, file, %error, "a secret can't be read");
            Secret::new("")
        }
    }
}

fn sms_token(section: &Notifications) -> Secret {
    secret(
        "notifications.sms_token",
        &section.sms_token,
        &section.sms_token_file,
    )
}

/// The role's numbers.
pub(super) fn options(section: &Notifications) -> Options {
    let webhooks = section.sms == SmsDriver::Twilio && !section.sms_webhook_url.is_empty();
    Options {
        sms_per_hour: i64::from(section.sms_per_hour),
        retry_delay: section.retry_delay.0,
        link_base: section.link_base.trim_end_matches('/').to_owned(),
        inbound: webhooks.then(|| Inbound {
            url: section.sms_webhook_url.clone(),
            token: sms_token(section),
        }),
    }
}

/// A carrier for each channel.
pub(super) fn runners(config: &Config) -> Vec<Arc<dyn Runner>> {
    let section = &config.notifications;
    let believed = Believed::of(&config.tls.ca_file);
    let sms: Arc<dyn Runner> = match section.sms {
        SmsDriver::Log => Arc::new(Logged::new("sms")),
        SmsDriver::Twilio => {
            let account = Account {
                url: section.sms_url.trim_end_matches('/').to_owned(),
                sid: section.sms_account.clone(),
                token: sms_token(section),
                from: section.sms_from.clone(),
                status_url: Some(section.sms_webhook_url.clone()).filter(|url| !url.is_empty()),
            };
            Arc::new(Sms::new(account, believed.clone()))
        }
    };
    let email: Arc<dyn Runner> = match section.email {
        EmailDriver::Log => Arc::new(Logged::new("email")),
        EmailDriver::Smtp => Arc::new(Smtp::new(Server {
            host: section.smtp_host.clone(),
            port: section.smtp_port,
            tls: match section.smtp_tls {
                SmtpTls::Starttls => Tls::Starttls,
                SmtpTls::Implicit => Tls::Implicit,
                SmtpTls::None => Tls::None,
            },
            user: Some(section.smtp_user.clone()).filter(|user| !user.is_empty()),
            password: secret(
                "notifications.smtp_password",
                &section.smtp_password,
                &section.smtp_password_file,
            ),
            from: section.email_from.clone(),
            believed: believed.clone(),
        })),
    };
    let push: Arc<dyn Runner> = match section.push {
        PushDriver::Log => Arc::new(Logged::new("push")),
        PushDriver::Webhook => Arc::new(Push::new(
            section.push_url.clone(),
            secret(
                "notifications.push_secret",
                &section.push_secret,
                &section.push_secret_file,
            ),
            || Clock.now(),
            believed,
        )),
    };
    vec![sms, email, push]
}
