//! Messages made of templates (DOMAIN 5.6, rendering): values go in verbatim, in an e-mail's HTML escaped. A variable
//! without a value is an error, never an empty place or a placeholder.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::event::{Channel, NotificationType};

/// Values by the names of the variables.
pub type Variables = BTreeMap<String, String>;

/// One type's words in one language.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Subject of the e-mail, head of the push message.
    pub title: String,
    /// The message.
    pub text: String,
}

/// A rendered message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// See [`Template::title`].
    pub title: String,
    /// As it is read on a telephone.
    pub text: String,
    /// The same for an e-mail, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
}

/// What is said is personal: it stays out of logs.
impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message(…)")
    }
}

/// Languages, each with its templates by name. The first one stands in for those that are not here.
const LANGUAGES: &[(&str, &str)] = &[("en", include_str!("templates/en.toml"))];

fn languages() -> &'static BTreeMap<&'static str, BTreeMap<String, Template>> {
    static READ: OnceLock<BTreeMap<&'static str, BTreeMap<String, Template>>> = OnceLock::new();
    READ.get_or_init(|| {
        let read = |(language, text): &(&'static str, &str)| {
            let templates = toml::from_str(text).expect("a test reads every template");
            (*language, templates)
        };
        LANGUAGES.iter().map(read).collect()
    })
}

/// The template called `wording` for a reader of `language` (`de-AT` reads `de`, else English).
#[must_use]
pub fn template(language: &str, wording: &str) -> Option<&'static Template> {
    let primary = language.split(['-', '_']).next().unwrap_or_default();
    let languages = languages();
    languages
        .get(primary)
        .or_else(|| languages.get(LANGUAGES[0].0))?
        .get(wording)
}

/// Makes the message.
///
/// # Errors
/// One sentence that names the template or the variable that is missing; no value is in it.
pub fn render(
    language: &str,
    wording: &str,
    variables: &Variables,
    channel: Channel,
) -> Result<Message, String> {
    let template = template(language, wording)
        .ok_or_else(|| format!("there is no message template {wording}"))?;
    let fill = |text: &str, put: fn(&str) -> String| {
        fill(text, variables, put).map_err(|why| format!("message {wording}: {why}"))
    };
    let html = match channel {
        Channel::Email => Some(format!(
            "<!doctype html>\n<p>{}</p>\n",
            fill(&escape(&template.text), escape)?
        )),
        Channel::Push | Channel::Sms => None,
    };
    Ok(Message {
        title: fill(&template.title, str::to_owned)?,
        text: fill(&template.text, str::to_owned)?,
        html,
    })
}

/// Puts values in the places of `{name}`, in one pass: a brace in a value is a brace.
fn fill(text: &str, variables: &Variables, put: fn(&str) -> String) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, behind) = behind
            .split_once('}')
            .ok_or_else(|| "a brace is not closed".to_owned())?;
        let value = variables
            .get(name)
            .filter(|value| !value.trim().is_empty())
            .ok_or_else(|| format!("variable {name} has no value"))?;
        out.push_str(before);
        out.push_str(&put(value));
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The variables that a message of this type has (DOMAIN 5.6).
#[must_use]
pub fn variables_of(kind: NotificationType) -> &'static [&'static str] {
    use NotificationType as N;
    match kind {
        N::OfferReceived => &["incidentType", "distanceMiles", "payout", "offerLink"],
        N::OfferAccepted => &["vendorName", "etaMinutes", "trackingLink"],
        N::OfferWithdrawn | N::JobWithdrawn | N::Rematching | N::IncidentCancelled => {
            &["incidentId"]
        }
        N::JobAssigned => &["incidentType", "arrivalDueAt", "jobLink"],
        N::VendorEnRoute => &["vendorName", "trackingLink"],
        N::VendorArrived => &["vendorName"],
        N::IncidentEscalated => &["incidentId", "reason", "attempts"],
        N::WorkStarted => &["vendorName", "incidentType"],
        N::WorkCompleted => &["vendorName", "incidentType", "ratingLink"],
        N::PaymentCreated => &["amount", "vendorName", "paymentLink"],
        N::PaymentFlagged => &["amount", "vendorName", "fraudScore", "reasons"],
        N::PaymentApproved | N::PaymentCompleted => &["amount", "paymentId", "date"],
        N::PaymentRejected | N::PaymentRefunded => &["amount", "reason"],
        N::PaymentFailed => &["amount", "vendorName", "reason"],
        N::PaymentAction => &["paymentLink"],
        N::CallSummary => &["callId", "urgency"],
        N::CallAttention => &["callId", "missing"],
        N::LocationRequest => &["locationLink"],
        N::SystemAlert => &["alarmName", "subject", "value"],
        N::OtpCode => &["code", "minutes"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_message_in_every_language_with_its_variables_and_no_others() {
        for (language, _) in LANGUAGES {
            for kind in NotificationType::ALL {
                let wordings: &[&str] = match kind {
                    NotificationType::SystemAlert => &["system_alert", "system_alert_cleared"],
                    kind => &[kind.as_str()],
                };
                for wording in wordings {
                    let variables: Variables = variables_of(*kind)
                        .iter()
                        .map(|name| ((*name).to_owned(), format!("<{name}>")))
                        .collect();
                    let message = render(language, wording, &variables, Channel::Email)
                        .unwrap_or_else(|why| panic!("{language}: {why}"));
                    for name in variables.keys() {
                        let without: Variables = variables
                            .iter()
                            .filter(|(other, _)| *other != name)
                            .map(|(name, value)| (name.clone(), value.clone()))
                            .collect();
                        let why = render(language, wording, &without, Channel::Sms)
                            .expect_err("a variable is missing");
                        assert!(why.contains(name.as_str()), "{why}");
                        assert!(message.text.contains(&format!("<{name}>")));
                        let html = message.html.as_deref().expect("an e-mail");
                        assert!(html.contains(&format!("&lt;{name}&gt;")), "{html}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_is_put_in_as_it_is_and_an_empty_one_is_none() {
        let mut variables = Variables::from([("vendorName".to_owned(), "A {x} & <Co>".to_owned())]);
        let message = render("de-AT", "vendor_arrived", &variables, Channel::Email).expect("made");
        assert_eq!(message.text, "A {x} & <Co> has arrived.");
        assert!(
            message
                .html
                .is_some_and(|html| html.contains("A {x} &amp; &lt;Co&gt; has arrived."))
        );
        variables.insert("vendorName".to_owned(), " ".to_owned());
        assert!(render("en", "vendor_arrived", &variables, Channel::Sms).is_err());
    }
}
