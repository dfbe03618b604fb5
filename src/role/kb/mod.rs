//! The role `kb`: knowledge documents and their full-text index (DOMAIN 5.10).
//!
//! A document's text rests in the role's own database and travels in `kb.upload`; [`text`] has the pure rules.

mod commands;
pub mod entity;
mod search;
#[cfg(test)]
mod tests;
pub mod text;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use crate::event::{Code, DocumentIndexed, DocumentIndexingFailed1, DocumentUploaded, Known};
use crate::store::{Tx, params};
use entity::{Document, DocumentStatus, clear_index};

/// The role.
#[derive(Debug, Default)]
pub struct KbRole;

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<commands::Upload>("kb.upload", P::KbEdit, true).answers::<Document>(),
    spec::<commands::One>("kb.delete", P::KbEdit, true).answers::<Document>(),
    spec::<commands::One>("kb.reindex", P::KbEdit, true).answers::<Document>(),
    spec::<search::Search>("kb.search", P::KbView, false).answers::<Page<search::Found>>(),
    spec::<search::Ask>("kb.ask", P::KbView, false).answers::<search::Answer>(),
    spec::<commands::One>("kb.get", P::KbView, false).answers::<commands::WithText>(),
    spec::<commands::ListBody>("kb.list", P::KbView, false).answers::<Page<Document>>(),
];

impl Role for KbRole {
    fn name(&self) -> RoleName {
        RoleName::Kb
    }

    fn migrations(&self) -> &'static [&'static str] {
        entity::MIGRATIONS
    }

    fn commands(&self) -> &'static [CommandSpec] {
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &Command) -> Result<Scope, HandlerError> {
        // Documents belong to nobody: who may read one may read all that are in force.
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Event(received) => match received.event.known() {
                Some(Known::DocumentUploaded(uploaded)) => index(tx, uploaded),
                _ => Ok(()),
            },
            Input::Command(command) => commands::run(tx, command),
            Input::Timer(_) | Input::Effect(_) => Ok(()),
        }
    }
}

/// On DocumentUploaded: the chunks of the current revision replace the old ones. An older revision, a document that is gone
/// or of another site, or one that is indexed already: nothing.
fn index(tx: &mut Tx<'_>, uploaded: &DocumentUploaded) -> Result<(), HandlerError> {
    let Some(mut document) = Document::find(tx, uploaded.document_id)? else {
        return Ok(());
    };
    let current = uploaded.revision.get() == document.revision;
    if !current || document.status != DocumentStatus::Pending {
        return Ok(());
    }
    let body = Document::body(tx, document.document_id)?.unwrap_or_default();
    let chunks = text::chunks(&body);
    clear_index(tx, document.document_id)?;
    let (id, now) = (document.document_id, tx.now());
    document.chunks = chunks.len() as u64;
    let revision = uploaded.revision;
    if chunks.is_empty() {
        document.status = DocumentStatus::Failed;
        document.save(tx, None)?;
        tx.emit(&DocumentIndexingFailed1 {
            document_id: id,
            revision,
            error: Code::new("no_words").expect("a word of small letters is a code"),
            failed_at: now,
        })?;
        return Ok(());
    }
    for (n, chunk) in chunks.iter().enumerate() {
        tx.execute(
            "INSERT INTO chunk (document_id, n, body) VALUES (?1, ?2, ?3)",
            params![id.to_string(), n as i64 + 1, chunk],
        )?;
    }
    document.status = DocumentStatus::Indexed;
    document.last_indexed_at = Some(now);
    document.save(tx, None)?;
    tx.emit(&DocumentIndexed {
        document_id: id,
        revision,
        chunks: commands::count(document.chunks)?,
        indexed_at: now,
    })?;
    Ok(())
}
