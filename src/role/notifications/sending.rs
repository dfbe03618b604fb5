//! From "this person should be told" to a call outside and its end: the order of checks of DOMAIN 5.6, whose turn it is,
//! three tries for each channel by itself.

use serde_json::{Map, Value, json};

use super::contact::Contact;
use super::delivery::{Delivery, Inner};
use super::preferences::Preferences;
use super::render::{Variables, render};
use super::{Options, RETENTION, RETRY};
use crate::event::{
    Channel, DeliveryStatus, E164, Email, Id, NotificationPriority, NotificationType, Ts,
};
use crate::role::{EffectResult, HandlerError};
use crate::store::{EffectCall, EffectClass, EffectOutcome, Error, Secret, Tx};

/// Tries for one channel (DOMAIN 5.6).
const TRIES_MAX: u32 = 3;
/// Calls on their way at once; what waits behind them goes by priority.
const IN_FLIGHT_MAX: i64 = 48;

/// A message to one person.
pub(super) struct Note<'a> {
    /// The event that it is about.
    pub event_id: Option<Id>,
    /// What it is once for.
    pub once_for: String,
    /// To whom.
    pub to: Id,
    /// What kind.
    pub kind: NotificationType,
    /// Which template.
    pub wording: &'a str,
    /// How urgent.
    pub priority: NotificationPriority,
    /// On which channels.
    pub channels: &'a [Channel],
    /// When it happened.
    pub event_at: Ts,
    /// When it has lost its sense.
    pub stale_at: Option<Ts>,
}

/// The values of a message's variables for one reader.
pub(super) type Values<'v> = &'v dyn Fn(&Tx<'_>, &Contact) -> Result<Variables, HandlerError>;

/// How a channel's checks came out.
enum Verdict {
    Send { silent: bool },
    Drop(&'static str),
}

fn exempt(kind: NotificationType) -> bool {
    matches!(
        kind,
        NotificationType::OtpCode | NotificationType::OfferReceived
    )
}

/// Decides for each channel, and records what was decided. Nothing is sent yet: see [`pump`]. Returns the deliveries.
pub(super) fn plan(
    tx: &mut Tx<'_>,
    options: &Options,
    note: &Note<'_>,
    values: Values<'_>,
) -> Result<Vec<Delivery>, HandlerError> {
    let mut made = Vec::new();
    let mut variables: Option<Variables> = None;
    for channel in note.channels {
        let known = Delivery::of(tx, &note.once_for, note.to, *channel)?;
        // A replay without calls outside leaves its mark; with them, what it left out may follow.
        let left_out = |known: &Delivery| known.reason.as_deref() == Some("replay");
        if known
            .as_ref()
            .is_some_and(|known| !(left_out(known) && tx.reaches_outside()))
        {
            continue;
        }
        let mut delivery = new_delivery(tx, note, *channel);
        if let Some(known) = known {
            delivery.notification_id = known.notification_id;
        }
        match check(tx, options, note, *channel)? {
            Verdict::Drop(reason) => delivery.end(DeliveryStatus::Dropped, Some(reason.to_owned())),
            Verdict::Send { silent } => {
                let contact = Contact::find_or_new(tx, note.to)?;
                if variables.is_none() {
                    variables = Some(values(tx, &contact)?);
                }
                let variables = variables.get_or_insert_default();
                let message = render(contact.language(), note.wording, variables, *channel)
                    .map_err(HandlerError::Transient)?;
                delivery.inner.silent = silent;
                delivery.inner.message = Some(tx.seal(&note.to, message)?);
            }
        }
        delivery.save(tx)?;
        made.push(delivery);
    }
    if !made.is_empty() {
        keep_clearing(tx)?;
    }
    Ok(made)
}

fn new_delivery(tx: &mut Tx<'_>, note: &Note<'_>, channel: Channel) -> Delivery {
    let now = tx.now();
    Delivery {
        notification_id: tx.new_id(),
        event_id: note.event_id,
        recipient_id: note.to,
        channel,
        kind: note.kind,
        priority: note.priority,
        status: DeliveryStatus::Pending,
        attempts: 0,
        reason: None,
        provider_message_id: None,
        at: now,
        sent_at: None,
        inner: Inner {
            once_for: note.once_for.clone(),
            event_at: note.event_at,
            stale_at: note.stale_at,
            silent: false,
            counted: channel == Channel::Sms && !exempt(note.kind),
            in_flight: false,
            next_try: now,
            message: None,
            once_only: false,
        },
    }
}

/// Muted type, channel on, opt-out, quiet hours, SMS limit, contact; rendering and sending follow.
fn check(
    tx: &Tx<'_>,
    options: &Options,
    note: &Note<'_>,
    channel: Channel,
) -> Result<Verdict, HandlerError> {
    if !tx.reaches_outside() {
        return Ok(Verdict::Drop("replay"));
    }
    let contact = Contact::find_or_new(tx, note.to)?;
    let preferences = Preferences::find(tx, note.to)?;
    let allowed = preferences.allow(note.kind, note.priority, channel, &contact, tx.now());
    let silent = match allowed {
        Ok(silent) => silent,
        Err(refusal) => return Ok(Verdict::Drop(refusal.as_str())),
    };
    let counts = channel == Channel::Sms && !exempt(note.kind);
    if counts && Delivery::sms_in_the_hour(tx, note.to, None)? >= options.sms_per_hour {
        return Ok(Verdict::Drop("sms_limit"));
    }
    if contact.erased {
        return Ok(Verdict::Drop("erased"));
    }
    if !contact.known() {
        let message = format!("no contact is known for {} of {}", note.to, note.kind);
        return Err(HandlerError::Transient(message));
    }
    // A person may live without e-mail or a device; that is no mistake to be repeated until it is a dead letter.
    match address(tx, &contact, channel)? {
        None => Ok(Verdict::Drop("no_address")),
        Some(_) => Ok(Verdict::Send { silent }),
    }
}

fn address(tx: &Tx<'_>, contact: &Contact, channel: Channel) -> Result<Option<Value>, Error> {
    Ok(match channel {
        Channel::Sms => contact.phone(tx)?.map(|phone| json!(phone)),
        Channel::Email => contact.email(tx)?.map(|email| json!(email)),
        Channel::Push => {
            let devices = contact.devices(tx)?;
            (!devices.is_empty()).then(|| json!(devices))
        }
    })
}

/// The log is cleared once a day while there is something in it (DOMAIN 5, timer retention).
pub(super) fn keep_clearing(tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    const DAY_MS: i64 = 86_400_000;
    let next_ms = (tx.now().ms().div_euclid(DAY_MS) + 1) * DAY_MS;
    Ok(tx.schedule(Ts::from_ms(next_ms), RETENTION, "", &Value::Null)?)
}

/// Asks for the calls whose turn it is. In a replay without calls outside nothing is asked, or it would be lost.
pub(super) fn pump(tx: &mut Tx<'_>, options: &Options) -> Result<(), HandlerError> {
    if !tx.reaches_outside() {
        return Ok(());
    }
    let mut flying = Delivery::flying(tx)?;
    while flying < IN_FLIGHT_MAX {
        let Some(mut delivery) = Delivery::next(tx)? else {
            break;
        };
        match ready(tx, options, &delivery)? {
            Err(reason) => delivery.end(DeliveryStatus::Dropped, Some(reason.to_owned())),
            Ok(to) => {
                ask(tx, &mut delivery, to, None)?;
                flying += 1;
            }
        }
        delivery.save(tx)?;
    }
    Ok(())
}

/// What may have changed since a delivery was planned: its sense, the person, his limit.
fn ready(
    tx: &Tx<'_>,
    options: &Options,
    delivery: &Delivery,
) -> Result<Result<Value, &'static str>, HandlerError> {
    if delivery
        .inner
        .stale_at
        .is_some_and(|stale| stale <= tx.now())
    {
        return Ok(Err("expired"));
    }
    let contact = Contact::find_or_new(tx, delivery.recipient_id)?;
    if contact.erased {
        return Ok(Err("erased"));
    }
    if delivery.inner.counted && delivery.attempts > 0 {
        let own = Some(delivery.notification_id);
        if Delivery::sms_in_the_hour(tx, delivery.recipient_id, own)? >= options.sms_per_hour {
            return Ok(Err("sms_limit"));
        }
    }
    Ok(address(tx, &contact, delivery.channel)?.ok_or("no_address"))
}

/// Asks for one call, under the delivery's own id: every try of it is the same message to whoever takes it. Address and words
/// are sealed in it for the recipient.
fn ask(
    tx: &mut Tx<'_>,
    delivery: &mut Delivery,
    to: Value,
    secret: Option<Secret>,
) -> Result<(), HandlerError> {
    delivery.inner.in_flight = true;
    let mut request = Map::new();
    let to = tx.seal(&delivery.recipient_id, to)?;
    request.insert("to".to_owned(), json!(to));
    request.insert("type".to_owned(), json!(delivery.kind));
    request.insert("priority".to_owned(), json!(delivery.priority));
    request.insert("silent".to_owned(), json!(delivery.inner.silent));
    if let Some(stale) = delivery.inner.stale_at {
        request.insert("notAfter".to_owned(), json!(stale));
    }
    if let Some(message) = delivery.inner.message.take() {
        let message = tx.sealed(&delivery.recipient_id, message)?;
        delivery.inner.message = Some(message.clone());
        request.insert("message".to_owned(), json!(message));
    }
    tx.effect(EffectCall {
        key: delivery.notification_id.to_string(),
        kind: delivery.channel.as_str().to_owned(),
        class: EffectClass::External,
        request: Value::Object(request),
        secret,
    })?;
    Ok(())
}

/// A one-time password: to an address that the caller names, since its owner may not be known here yet, and with words
/// that are in no file. So it can be tried only by the process that took the command.
pub(super) struct Password<'p> {
    pub phone: &'p E164,
    pub email: Option<&'p Email>,
    pub variables: Variables,
}

/// Sends one on SMS, and e-mail where there is an address.
pub(super) fn send_password(
    tx: &mut Tx<'_>,
    note: &Note<'_>,
    password: &Password<'_>,
) -> Result<Vec<Delivery>, HandlerError> {
    let contact = Contact::find_or_new(tx, note.to)?;
    let preferences = Preferences::find(tx, note.to)?;
    let mut made = Vec::new();
    for channel in note.channels {
        let to = match channel {
            Channel::Sms => Some(json!(password.phone)),
            Channel::Email => password.email.map(|email| json!(email)),
            Channel::Push => None,
        };
        let mut delivery = new_delivery(tx, note, *channel);
        delivery.inner.once_only = true;
        let allowed = preferences.allow(note.kind, note.priority, *channel, &contact, tx.now());
        match (allowed, to) {
            (Err(refusal), _) => {
                delivery.end(DeliveryStatus::Dropped, Some(refusal.as_str().to_owned()));
            }
            (Ok(_), None) => {
                delivery.end(DeliveryStatus::Dropped, Some("no_address".to_owned()));
            }
            (Ok(_), Some(to)) => {
                let language = contact.language();
                let message = render(language, note.wording, &password.variables, *channel)
                    .map_err(HandlerError::Transient)?;
                // A message is a few texts: it always serialises.
                let secret = serde_json::to_string(&message).unwrap_or_default();
                ask(tx, &mut delivery, to, Some(Secret::new(secret)))?;
            }
        }
        delivery.save(tx)?;
        made.push(delivery);
    }
    keep_clearing(tx)?;
    Ok(made)
}

/// What a call came to. A silence counts as a try that failed: the message goes out again under the same key, since one
/// that never arrives is worse than one that arrives twice and can be told by its key.
pub(super) fn on_result(
    tx: &mut Tx<'_>,
    options: &Options,
    result: &EffectResult,
) -> Result<(), HandlerError> {
    let Some(mut delivery) = Delivery::find(tx, &result.key)? else {
        return pump(tx, options);
    };
    delivery.inner.in_flight = false;
    if !delivery.ended() {
        let now = tx.now();
        match &result.outcome {
            EffectOutcome::Done(answer) => {
                delivery.attempts += 1;
                delivery.sent_at = Some(now);
                delivery.end(DeliveryStatus::Sent, None);
                if let Some(message_id) = answer.get("id").and_then(Value::as_str) {
                    delivery.provider_message_id = Some(message_id.to_owned());
                    if let Some(report) = Delivery::take_report(tx, message_id)? {
                        delivery.end(DeliveryStatus::Failed, Some(report));
                    }
                }
            }
            EffectOutcome::Failed(why) | EffectOutcome::Unknown(why) => {
                delivery.attempts += 1;
                try_later(tx, options, &mut delivery, why)?;
            }
            // Nobody was asked: no try. It waits for the breaker as long as it makes sense.
            EffectOutcome::NotSent(why) => try_later(tx, options, &mut delivery, why)?,
        }
    }
    delivery.save(tx)?;
    pump(tx, options)
}

fn try_later(
    tx: &mut Tx<'_>,
    options: &Options,
    delivery: &mut Delivery,
    why: &str,
) -> Result<(), HandlerError> {
    if delivery
        .inner
        .stale_at
        .is_some_and(|stale| stale <= tx.now())
    {
        delivery.end(DeliveryStatus::Dropped, Some("expired".to_owned()));
        return Ok(());
    }
    if delivery.attempts >= TRIES_MAX || delivery.inner.once_only {
        delivery.end(DeliveryStatus::Failed, Some(why.to_owned()));
        return Ok(());
    }
    delivery.reason = Some(why.to_owned());
    delivery.inner.next_try = tx.now() + options.retry_delay;
    let key = delivery.notification_id.to_string();
    tx.schedule(delivery.inner.next_try, RETRY, &key, &Value::Null)?;
    Ok(())
}

/// Drops what has not gone out to somebody who is erased, and what was said to him.
pub(super) fn drop_all(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    for mut delivery in Delivery::open_of(tx, user_id)? {
        let flying = delivery.inner.in_flight;
        delivery.end(DeliveryStatus::Dropped, Some("erased".to_owned()));
        // It is on its way already, and its result will say so.
        delivery.inner.in_flight = flying;
        delivery.save(tx)?;
    }
    Ok(())
}
