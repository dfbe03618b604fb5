//! The commands of notifications (DOMAIN 5.6). Permission and ownership were checked before.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::contact::{Contact, DEVICES_MAX, Device};
use super::delivery::Delivery;
use super::preferences::{Channels, Preferences, QuietHours};
use super::render::{Variables, variables_of};
use super::sending::{Note, Password, plan, pump, send_password};
use super::{Options, webhook};
use crate::event::{
    Actor, Channel, DevicePlatform, E164, Email, Id, List, NotificationPriority, NotificationType,
    Personal, Text,
};
use crate::role::listing::{cursor, id_of, limit, next, optional_id_of, page};
use crate::role::permission::{Scope, person_of};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

/// How long a message of a command makes sense.
const SENSE: std::time::Duration = std::time::Duration::from_secs(3_600);

/// A command about oneself, or about whom an admin names.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Own {
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<Text<64>>,
}

pub(super) fn run(
    tx: &mut Tx<'_>,
    options: &Options,
    command: &Command,
) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "notification.send" => send(tx, options, command),
        "notification.send_otp" => send_otp(tx, command),
        "notification.get_preferences" => {
            command.parse::<Own>()?;
            let preferences = Preferences::find(tx, whose(command)?)?;
            Ok(tx.reply(&preferences)?)
        }
        "notification.set_preferences" => set_preferences(tx, command),
        "notification.register_device" => register_device(tx, command),
        "notification.opt_out" => {
            command.parse::<Own>()?;
            let preferences = opt_out(tx, whose(command)?)?;
            Ok(tx.reply(&preferences)?)
        }
        "notification.history" => history(tx, command),
        "notification.webhook" => webhook::webhook(tx, options, command),
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
    }
}

/// Whose preferences or history a command is about; for a message, whose dispatchers may send it.
pub(super) fn scope(tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
    match command.name.as_str() {
        "notification.send" => {
            let contact = recipient(tx, id_of(command, "recipientId")?)?;
            // A vendor works for every company.
            if contact.is_vendor() {
                return Ok(Scope::Open);
            }
            Ok(Scope::Owned {
                driver: None,
                vendor: None,
                company: contact.company_id(),
            })
        }
        "notification.send_otp" | "notification.webhook" => Ok(Scope::Open),
        _ => Ok(Scope::Person(whose(command)?)),
    }
}

fn whose(command: &Command) -> Result<Id, HandlerError> {
    let named = optional_id_of(command, "userId")?.or(person_of(command.actor()));
    named.ok_or_else(|| Rejection::field("userId", "is missing").into())
}

fn recipient(tx: &Tx<'_>, user_id: Id) -> Result<Contact, HandlerError> {
    let contact = Contact::find(tx, user_id)?.filter(|contact| contact.known() && !contact.erased);
    contact.ok_or_else(|| {
        let message = format!("there is no contact {user_id}");
        Rejection::new(Code::NotFound, message).into()
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Send {
    #[serde(rename = "type")]
    kind: NotificationType,
    recipient_id: Id,
    channels: List<Channel, 1, 3>,
    /// All variables of the type, by name.
    variables: BTreeMap<String, Text<256>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<Text<64>>,
}

fn send(tx: &mut Tx<'_>, options: &Options, command: &Command) -> Result<(), HandlerError> {
    let body: Send = command.parse()?;
    if body.kind == NotificationType::OtpCode {
        return Err(Rejection::field("type", "a one-time password is sent by auth alone").into());
    }
    recipient(tx, body.recipient_id)?;
    let known = variables_of(body.kind);
    if let Some(name) = body
        .variables
        .keys()
        .find(|name| !known.contains(&name.as_str()))
    {
        let message = format!("{} has no such variable", body.kind);
        return Err(Rejection::field(format!("variables.{name}"), message).into());
    }
    let mut variables = Variables::new();
    for name in known {
        let value = body
            .variables
            .get(*name)
            .map(Text::as_str)
            .unwrap_or_default();
        if value.trim().is_empty() {
            return Err(Rejection::field(format!("variables.{name}"), "is missing").into());
        }
        variables.insert((*name).to_owned(), value.to_owned());
    }
    let mut channels = body.channels.get().to_vec();
    channels.sort_unstable();
    channels.dedup();
    let note = Note {
        event_id: None,
        once_for: command.id.to_string(),
        to: body.recipient_id,
        kind: body.kind,
        wording: body.kind.as_str(),
        priority: priority_of(body.kind),
        channels: &channels,
        event_at: tx.now(),
        stale_at: Some(tx.now() + SENSE),
    };
    let made = plan(tx, options, &note, &|_, _| Ok(variables.clone()))?;
    pump(tx, options)?;
    reply_with(tx, &made)
}

/// As urgent as the table has the type; the more urgent, where it has it twice.
fn priority_of(kind: NotificationType) -> NotificationPriority {
    let rows = super::table::ROWS.iter().filter(|row| row.kind == kind);
    rows.map(|row| row.priority)
        .min()
        .unwrap_or(NotificationPriority::Normal)
}

/// What a message came to, channel by channel.
#[derive(JsonSchema)]
#[schemars(rename = "Deliveries")]
pub(super) struct Made {
    #[serde(rename = "deliveries")]
    _deliveries: Vec<Delivery>,
}

fn reply_with(tx: &mut Tx<'_>, made: &[Delivery]) -> Result<(), HandlerError> {
    let mut items = Vec::new();
    for delivery in made {
        let now = Delivery::find(tx, &delivery.notification_id.to_string())?;
        items.extend(now.map(|delivery| delivery.entity()));
    }
    Ok(tx.reply(&json!({ "deliveries": items }))?)
}

/// A one-time password. Whatever is wrong with one, its text is in no error.
pub(super) struct Password6(String);

impl<'de> Deserialize<'de> for Password6 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let code = value.as_str().filter(|code| {
            (4..=16).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric())
        });
        code.map(|code| Self(code.to_owned()))
            .ok_or_else(|| serde::de::Error::custom("not a text of 4 to 16 letters and digits"))
    }
}

impl JsonSchema for Password6 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneTimePassword".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9]{4,16}$" })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SendOtp {
    /// The account, where there is one.
    recipient_id: Option<Id>,
    phone: E164,
    email: Option<Email>,
    code: Password6,
    /// How long the code works.
    #[schemars(range(min = 1, max = 60))]
    minutes: u32,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<Text<64>>,
}

fn send_otp(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    if *command.actor() != Actor::System("auth".to_owned()) {
        let message = "one-time passwords are sent by the role auth alone";
        return Err(Rejection::new(Code::AuthorizationError, message).into());
    }
    let body: SendOtp = command.parse()?;
    if !(1..=60).contains(&body.minutes) {
        return Err(Rejection::field("minutes", "not from 1 to 60").into());
    }
    let to = match body.recipient_id {
        Some(known) => known,
        None => tx.new_id(),
    };
    let variables = Variables::from([
        ("code".to_owned(), body.code.0),
        ("minutes".to_owned(), body.minutes.to_string()),
    ]);
    let note = Note {
        event_id: None,
        once_for: command.id.to_string(),
        to,
        kind: NotificationType::OtpCode,
        wording: NotificationType::OtpCode.as_str(),
        priority: NotificationPriority::Urgent,
        channels: &[Channel::Sms, Channel::Email],
        event_at: tx.now(),
        stale_at: Some(tx.now() + std::time::Duration::from_secs(u64::from(body.minutes) * 60)),
    };
    let password = Password {
        phone: &body.phone,
        email: body.email.as_ref(),
        variables,
    };
    let made = send_password(tx, &note, &password)?;
    reply_with(tx, &made)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SetPreferences {
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    expected_version: u64,
    channels: Option<Channels>,
    muted_types: Option<List<NotificationType, 0, 32>>,
    /// null takes them away.
    quiet_hours: Option<QuietHours>,
    sms_opt_out: Option<bool>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<Text<64>>,
}

fn set_preferences(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: SetPreferences = command.parse()?;
    let mut preferences = Preferences::find(tx, whose(command)?)?;
    if body.expected_version != preferences.version {
        let message = format!(
            "the preferences have version {}, not {}",
            preferences.version, body.expected_version
        );
        return Err(Rejection::new(Code::VersionConflict, message)
            .with_details(json!({ "version": preferences.version }))
            .into());
    }
    if let Some(muted) = body.muted_types {
        if muted.get().contains(&NotificationType::OtpCode) {
            let message = "otp_code can't be muted: nobody could sign in again";
            return Err(Rejection::field("mutedTypes", message).into());
        }
        preferences.muted_types = muted;
    }
    let quiet_hours = body.quiet_hours;
    if let Some(quiet) = &quiet_hours
        && [&quiet.start, &quiet.end]
            .iter()
            .any(|time| time.minutes() == 1_440)
    {
        return Err(Rejection::field("quietHours", "24:00 is written 00:00 here").into());
    }
    if command.body.contains_key("quietHours") {
        preferences.quiet_hours = quiet_hours;
    }
    preferences.channels = body.channels.unwrap_or(preferences.channels);
    preferences.sms_opt_out = body.sms_opt_out.unwrap_or(preferences.sms_opt_out);
    preferences.save(tx)?;
    Ok(tx.reply(&preferences)?)
}

/// Says STOP for somebody; saying it twice changes nothing.
pub(super) fn opt_out(tx: &mut Tx<'_>, user_id: Id) -> Result<Preferences, HandlerError> {
    let mut preferences = Preferences::find(tx, user_id)?;
    if !preferences.sms_opt_out {
        preferences.sms_opt_out = true;
        preferences.save(tx)?;
    }
    Ok(preferences)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RegisterDevice {
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    /// What the push service calls the device.
    token: Text<512>,
    platform: DevicePlatform,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<Text<64>>,
}

fn register_device(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: RegisterDevice = command.parse()?;
    if body.token.as_str().trim().is_empty() {
        return Err(Rejection::field("token", "is empty").into());
    }
    let user_id = whose(command)?;
    let mut contact = Contact::find_or_new(tx, user_id)?;
    if contact.erased {
        let message = format!("there is no contact {user_id}");
        return Err(Rejection::new(Code::NotFound, message).into());
    }
    let token = body.token.as_str();
    let mut known = contact.devices(tx)?;
    known.retain(|device| device.token != token);
    known.push(Device {
        token: token.to_owned(),
        platform: body.platform,
    });
    // The oldest goes: a phone that was replaced never says goodbye.
    let too_many = known.len().saturating_sub(DEVICES_MAX);
    known.drain(..too_many);
    let devices = known.len();
    contact.devices = Personal::plain(known);
    contact.save(tx)?;
    Ok(tx.reply(&Registered { user_id, devices })?)
}

/// How many devices of a person are known.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DeviceRegistered")]
pub(super) struct Registered {
    user_id: Id,
    devices: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct History {
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    #[schemars(range(min = 1, max = 100))]
    limit: Option<u64>,
    cursor: Option<Text<128>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<Text<64>>,
}

fn history(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: History = command.parse()?;
    let limit = limit(body.limit)?;
    let before = cursor(body.cursor.as_ref().map(Text::as_str))?;
    let mut found = Delivery::history(tx, whose(command)?, &before, limit + 1)?;
    let more = found.len() as u64 > limit;
    if more {
        found.pop();
    }
    let cursor = found
        .last()
        .filter(|_| more)
        .map(|last| next(last.at.ms(), &last.notification_id.to_string()));
    let items: Vec<Value> = found.iter().map(Delivery::entity).collect();
    Ok(tx.reply(&page(&items, cursor))?)
}
