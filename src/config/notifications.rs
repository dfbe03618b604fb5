//! The section `notifications`: which services carry messages, and what they need (DOMAIN 5.6).

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Check, sound_address};
use super::units::Span;
use crate::event::Email;

/// Messages to people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Notifications {
    /// SMS to one person in any rolling hour.
    pub sms_per_hour: u32,
    /// From one try of a channel to the next.
    pub retry_delay: Span,
    /// What links in messages begin with.
    pub link_base: String,
    /// `log` or `twilio`.
    pub sms: SmsDriver,
    /// Where the SMS service's API is.
    pub sms_url: String,
    /// The account's SID.
    pub sms_account: String,
    /// The account's token.
    pub sms_token: String,
    /// A file with it.
    pub sms_token_file: String,
    /// The number that messages come from, or the SID of a messaging service.
    pub sms_from: String,
    /// The public URL at which the service calls us.
    pub sms_webhook_url: String,
    /// `log` or `smtp`.
    pub email: EmailDriver,
    /// The mail server.
    pub smtp_host: String,
    /// Its port.
    pub smtp_port: u16,
    /// `starttls`, `implicit`, or `none` on this machine.
    pub smtp_tls: SmtpTls,
    /// Who signs in; empty for nobody.
    pub smtp_user: String,
    /// His password.
    pub smtp_password: String,
    /// A file with it.
    pub smtp_password_file: String,
    /// Whom e-mail comes from.
    pub email_from: String,
    /// `log` or `webhook`.
    pub push: PushDriver,
    /// Where the push gateway listens.
    pub push_url: String,
    /// What requests to it are signed with.
    pub push_secret: String,
    /// A file with it.
    pub push_secret_file: String,
}

/// Who carries SMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum SmsDriver {
    Log,
    Twilio,
}

/// Who carries e-mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum EmailDriver {
    Log,
    Smtp,
}

/// Who carries push messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum PushDriver {
    Log,
    Webhook,
}

/// How the connection to the mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum SmtpTls {
    Starttls,
    Implicit,
    None,
}

impl Default for Notifications {
    fn default() -> Self {
        let none = String::new;
        Self {
            sms_per_hour: 10,
            retry_delay: Span::secs(60),
            link_base: "http://localhost:8080".to_owned(),
            sms: SmsDriver::Log,
            sms_url: "https://api.twilio.com".to_owned(),
            sms_account: none(),
            sms_token: none(),
            sms_token_file: none(),
            sms_from: none(),
            sms_webhook_url: none(),
            email: EmailDriver::Log,
            smtp_host: none(),
            smtp_port: 587,
            smtp_tls: SmtpTls::Starttls,
            smtp_user: none(),
            smtp_password: none(),
            smtp_password_file: none(),
            email_from: none(),
            push: PushDriver::Log,
            push_url: none(),
            push_secret: none(),
            push_secret_file: none(),
        }
    }
}

impl Check<'_> {
    /// What each chosen service needs is there, and what is there can be used.
    pub(super) fn notifications(&mut self, section: &Notifications) {
        if section.sms_per_hour == 0 {
            self.refuse("notifications.sms_per_hour", "0 is below 1", "");
        }
        if section.retry_delay.0.is_zero() {
            self.refuse("notifications.retry_delay", "0 is no time to wait", "");
        }
        self.address("link_base", &section.link_base);
        if section.sms == SmsDriver::Twilio {
            self.service("sms_url", &section.sms_url);
            self.needed("sms_account", &section.sms_account, "sms = \"twilio\"");
            self.needed("sms_from", &section.sms_from, "sms = \"twilio\"");
            self.secret(
                "sms_token",
                &section.sms_token,
                &section.sms_token_file,
                true,
            );
            if !section.sms_webhook_url.is_empty() {
                self.address("sms_webhook_url", &section.sms_webhook_url);
            }
        }
        if section.email == EmailDriver::Smtp {
            self.needed("smtp_host", &section.smtp_host, "email = \"smtp\"");
            if let Err(error) = Email::new(section.email_from.clone()) {
                let message = format!("'{}' is {error}", section.email_from);
                self.refuse(
                    "notifications.email_from",
                    message,
                    "write it like alerts@fleet.example",
                );
            }
            let here = ["127.0.0.1", "::1", "localhost"].contains(&section.smtp_host.as_str());
            if section.smtp_tls == SmtpTls::None && !here {
                self.refuse(
                    "notifications.smtp_tls",
                    "none would send messages and the password in the clear to another machine",
                    "write starttls, or implicit for port 465",
                );
            }
            let named = !section.smtp_user.is_empty();
            self.secret(
                "smtp_password",
                &section.smtp_password,
                &section.smtp_password_file,
                named,
            );
        }
        if section.push == PushDriver::Webhook {
            self.service("push_url", &section.push_url);
            self.secret(
                "push_secret",
                &section.push_secret,
                &section.push_secret_file,
                true,
            );
            let (secret, key) = (&section.push_secret, "notifications.push_secret");
            if !secret.is_empty() && !secret.starts_with("whsec_") {
                self.refuse(
                    key,
                    "it does not begin with whsec_",
                    "the push gateway's page shows it",
                );
            }
        }
    }

    fn needed(&mut self, name: &str, value: &str, by: &str) {
        if value.is_empty() {
            self.refuse(
                &format!("notifications.{name}"),
                format!("it is not set, and {by} needs it"),
                "config/roadcall.toml says what it is",
            );
        }
    }

    fn address(&mut self, name: &str, value: &str) {
        let host = value
            .strip_prefix("https://")
            .or(value.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace)) {
            self.refuse(
                &format!("notifications.{name}"),
                format!("'{value}' is no http:// or https:// address"),
                "",
            );
        }
    }

    /// Where secrets and what people are told go.
    fn service(&mut self, name: &str, value: &str) {
        if !sound_address(value) {
            self.refuse(
                &format!("notifications.{name}"),
                format!("'{value}' is no https:// address; http:// is for a service on this machine alone"),
                "",
            );
        }
    }

    /// A secret stands in its key or in a file that can be read; the text of neither is told.
    fn secret(&mut self, name: &str, value: &str, file: &str, needed: bool) {
        let (key, file_key) = (
            format!("notifications.{name}"),
            format!("notifications.{name}_file"),
        );
        if !value.is_empty() && !file.is_empty() {
            self.refuse(&key, format!("{file_key} is set too"), "keep one of them");
        } else if !file.is_empty() && self.elsewhere {
            // Nobody here can say.
        } else if !file.is_empty() {
            match std::fs::read_to_string(Path::new(file)) {
                Ok(text) if text.trim().is_empty() => {
                    self.refuse(
                        &file_key,
                        format!("{file} is empty"),
                        "write the secret into it",
                    );
                }
                Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => self.refuse(
                    &file_key,
                    format!("{file} can't be read: {error}"),
                    "it must be a file that Roadcall's user may read",
                ),
                // Who only asks something at the command line need not be allowed to read it.
                Ok(_) | Err(_) => {}
            }
        } else if needed && value.is_empty() {
            self.refuse(&key, "it is not set", &format!("set it, or {file_key}"));
        }
    }
}
