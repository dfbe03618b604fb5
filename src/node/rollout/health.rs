//! Whether a site is healthy with its version: a command of `fleet.toml` says so, else the roles that run here themselves,
//! else `roadcall check` with the site's files.

use super::{Here, Patience, Place, tools};
use crate::bus::jetstream::JetStream;
use crate::config::program;
use crate::node::inquiry::{Inquiry, Source};
use crate::node::preflight;
use crate::role::RoleName;

/// Exit code of `roadcall check` where only the topology differs.
const ONLY_TOPOLOGY: i32 = 2;

/// Waits until the site is healthy; a note for whoever looks on, or what is wrong.
pub(super) async fn wait(
    place: &Place,
    digest: &str,
    patience: &Patience,
) -> Result<Option<String>, String> {
    let command = &patience.how.health;
    if !command.is_empty() {
        return patience
            .until_right(|| said_by(command, place))
            .await
            .map(|()| None);
    }
    if let Some(here) = &place.here {
        let roles: Vec<RoleName> = place
            .processes()
            .iter()
            .flat_map(|process| &process.runs)
            .filter_map(|name| name.parse().ok())
            .collect();
        if roles.is_empty() && place.processes().is_empty() {
            return Ok(Some("no process of it runs here".to_owned()));
        }
        let ask = || asked_of(&roles, here, digest);
        return patience.until_right(ask).await.map(|()| None);
    }
    let config = place.main.display().to_string();
    let check = [
        &program().display().to_string(),
        "--config",
        &config,
        "check",
        "--json",
    ];
    let check = check.map(str::to_owned);
    let mut note = None;
    loop {
        match checked(&check, place).await {
            Ok(drift) => {
                note = drift.or(note);
                return Ok(note);
            }
            Err(why) if patience.is_over() => return Err(why),
            Err(_) => tokio::time::sleep(tools::LOOK_AGAIN).await,
        }
    }
}

async fn said_by(command: &[String], place: &Place) -> Result<(), String> {
    match tools::output(command, place).await? {
        (Some(0), _) => Ok(()),
        (code, said) => Err(format!(
            "health: {}",
            tools::ended(&command[0], code, &said)
        )),
    }
}

/// Every role answers, and has the version.
async fn asked_of(roles: &[RoleName], here: &Here, digest: &str) -> Result<(), String> {
    if roles.is_empty() {
        return Ok(());
    }
    let config = &here.config;
    let bus = JetStream::connect(preflight::connection(
        config,
        "roadcall-config",
        preflight::Who::Identity(&config.bus.identity),
    ));
    let bus = bus.await.map_err(|error| error.to_string())?;
    let inquiry = Inquiry {
        bus: bus.clone(),
        config: config.clone(),
        actor: here.actor.clone(),
        timeout: config.engine.command_timeout.0,
    };
    let result = all_answer(&inquiry, roles, digest).await;
    bus.close().await;
    result
}

async fn all_answer(inquiry: &Inquiry, roles: &[RoleName], digest: &str) -> Result<(), String> {
    for role in roles {
        let answer = inquiry
            .status(*role)
            .await
            .map_err(|error| error.to_string())?;
        let (status, source) = answer?;
        let has = status.in_force.map(|in_force| in_force.fleet);
        match (source, has) {
            (Source::File, _) => return Err(format!("role {role} does not answer")),
            (Source::Role, Some(has)) if has != digest => {
                return Err(format!("role {role} answers with version '{has}'"));
            }
            (Source::Role, _) => {}
        }
    }
    Ok(())
}

/// What `roadcall check` says of a site; a note where only the topology differs.
async fn checked(check: &[String], place: &Place) -> Result<Option<String>, String> {
    match tools::output(check, place).await? {
        (Some(0), _) => Ok(None),
        (Some(ONLY_TOPOLOGY), _) => Ok(Some(
            "its topology differs; roadcall topology plan there says how".to_owned(),
        )),
        (code, said) => {
            Err(first_failure(&said).unwrap_or_else(|| tools::ended("roadcall check", code, &said)))
        }
    }
}

/// What failed first, in the words of `roadcall check --json`.
fn first_failure(said: &str) -> Option<String> {
    let findings: serde_json::Value = serde_json::from_str(said).ok()?;
    let mut findings = findings.as_array()?.iter();
    let failed = findings.find(|finding| finding["status"] == "failed")?;
    let text = |name: &str| failed[name].as_str().unwrap_or_default().to_owned();
    Some(format!("{}: {}", text("check"), text("detail")))
}
