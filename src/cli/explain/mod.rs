//! `roadcall explain`: the page of an error code, or the list of them; the story of an event.

mod story;

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, say};
use super::roles::topology_roles;
use crate::error::{ErrorCode, Page};
use crate::event::Id;
use crate::node::clock::Clock;
use crate::node::run::routes;
use crate::node::story::tell;
use crate::node::switches;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// An error code like RC0201, or an event's id; without it, every code is listed.
    what: Option<String>,
}

pub(super) async fn explain(
    connection: &Connection,
    explain: &Explain,
) -> Result<ExitCode, Failure> {
    let Some(what) = &explain.what else {
        list(connection)?;
        return Ok(ExitCode::SUCCESS);
    };
    match (ErrorCode::parse(what), Id::parse(&what.to_lowercase())) {
        (Some(code), _) if connection.json => print_json(&document(code.page()))?,
        (Some(code), _) => say(text(code.page()))?,
        (None, Ok(id)) => event(connection, id).await?,
        (None, Err(_)) => {
            return Err(Failure::usage(
                &format!("'{what}' is neither an error code nor an event's id"),
                "roadcall explain lists the codes, roadcall event tail shows events",
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the story of the event with this id.
async fn event(connection: &Connection, id: Id) -> Result<(), Failure> {
    let config = connection.config()?;
    let routes = routes(&config)?;
    let roles = topology_roles(&config)?;
    let inquiry = Client::open(connection).await?.inquiry(&config);
    let routes = routes.switched(&switches::read(&inquiry.bus).await?);
    let told = tell(&inquiry, &routes, &roles, id, Clock.now()).await?;
    let told = told.ok_or_else(|| {
        Failure::other(
            format!("the archive has no event {id}"),
            "roadcall event tail shows what it has; what a role has not published yet is not in it",
        )
    })?;
    if connection.json {
        return print_json(&serde_json::to_value(&told).unwrap_or(Value::Null));
    }
    story::print(&told)
}

fn list(connection: &Connection) -> Result<(), Failure> {
    let pages = ErrorCode::ALL.iter().map(|code| code.page());
    if connection.json {
        return print_json(&Value::Array(pages.map(document).collect()));
    }
    for page in pages {
        say(format_args!(
            "{}  exit {:2}  {}",
            page.code, page.exit, page.title
        ))?;
    }
    Ok(())
}

fn document(page: &Page) -> Value {
    json!({
        "code": page.code, "exitCode": page.exit, "title": page.title, "means": page.means, "why": page.why,
        "help": page.remedy,
    })
}

fn text(page: &Page) -> String {
    format!(
        "{}: {} (exit code {})\n\nWhat it means\n{}\n\nUsual causes\n{}\n\nWhat to do\n{}",
        page.code,
        page.title,
        page.exit,
        wrap(page.means),
        wrap(page.why),
        wrap(page.remedy)
    )
}

/// Lines of at most 78 characters, indented by two.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::from(" ")];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if lines[last].len() + 1 + word.len() > 78 {
            lines.push(format!("  {word}"));
        } else {
            lines[last].push(' ');
            lines[last].push_str(word);
        }
    }
    lines.join("\n")
}
