//! `roadcall explain`: the page of an error code, or the list of them.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Connection;
use super::failure::Failure;
use super::output::{print_json, say};
use crate::error::{ErrorCode, Page};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// An error code like RC0201; without it, every code is listed.
    what: Option<String>,
}

pub(super) fn explain(connection: &Connection, explain: &Explain) -> Result<ExitCode, Failure> {
    let Some(what) = &explain.what else {
        list(connection)?;
        return Ok(ExitCode::SUCCESS);
    };
    let code = ErrorCode::parse(what).ok_or_else(|| {
        Failure::usage(
            &format!("there is no error code '{what}'"),
            "roadcall explain lists them",
        )
    })?;
    if connection.json {
        print_json(&document(code.page()))?;
    } else {
        say(text(code.page()))?;
    }
    Ok(ExitCode::SUCCESS)
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
