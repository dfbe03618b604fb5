//! Alarms that are raised, where no look of this one says the same.

use serde_json::Value;

use super::finding::{Findings, Severity, quoted};
use super::items;
use crate::node::inquiry::Inquiry;
use crate::role::RoleName;

/// What a finding of ours says with more words.
const SAID: [(&str, &str); 5] = [
    ("dead-letters", "letters"),
    ("queue-age", "queue-old"),
    ("queue-age", "queue-paused"),
    ("certificate-expiry", "certificate"),
    ("certificate-expired", "certificate"),
];

pub(super) async fn look(inquiry: &Inquiry, found: &mut Findings) {
    let raised = items(inquiry, "alarm.list", found).await;
    for alarm in raised.into_iter().flatten() {
        one(inquiry, &alarm, found);
    }
}

fn one(inquiry: &Inquiry, alarm: &Value, found: &mut Findings) {
    let text = |field: &str| alarm[field].as_str().unwrap_or_default().to_owned();
    let (name, subject, site) = (text("alarmName"), text("subject"), text("site"));
    let own = site == inquiry.config.site.id;
    let said = SAID
        .iter()
        .any(|(alarm, check)| *alarm == name && found.has(check, &subject));
    // Of a role that is down nothing can be measured.
    let down = RoleName::ALL
        .iter()
        .find(|role| role.queue() == Some(&subject))
        .is_some_and(|role| name == "no-data" && found.has("role-down", role.as_str()));
    if own && (said || down) {
        return;
    }
    let acknowledged = alarm["acknowledgedBy"].as_str();
    let severity = match (text("severity").as_str(), acknowledged) {
        (_, Some(_)) => Severity::Note,
        ("critical", None) => Severity::Critical,
        _ => Severity::Warning,
    };
    let by = acknowledged.map(|by| format!(", seen by {by}"));
    let draft = found
        .add(severity, "alarm", format!("{name} {subject} {site}"))
        .says(format!(
            "alarm {name} of {subject} at {site} is raised since {}: {} {} {}{}",
            text("since"),
            alarm["value"],
            if name.starts_with("certificate-") {
                "days left, under"
            } else {
                "over"
            },
            alarm["threshold"],
            by.unwrap_or_default()
        ))
        .seen("alarm.list of role audit");
    match name.as_str() {
        "dead-letters" => draft.roadcall(&format!("dlq list --queue {}", quoted(&subject))),
        "queue-age" => draft.roadcall(&format!("queue show {}", quoted(&subject))),
        "certificate-expiry" | "certificate-expired" => {
            draft.then(format!("roadcall doctor  # at {}", quoted(&site)));
        }
        "retention-loss" => draft.roadcall(&format!(
            "audit --queue {0}  # which; then alarm acknowledge retention-loss --subject {0}",
            quoted(&subject)
        )),
        _ => draft.roadcall(&format!(
            "alarm acknowledge {} --subject {}  # when somebody looks after it",
            quoted(&name),
            quoted(&subject)
        )),
    }
}
