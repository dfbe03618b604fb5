//! Commands on documents (DOMAIN 5.10). Permission was checked before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::entity::{Document, DocumentStatus, clear_index, legal};
use super::search;
use crate::event::{
    Count1, Date, DocumentCategory, DocumentDeleted, DocumentUploaded, Id, List, Text,
};
use crate::role::listing::{cursor, limit, next, page};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

/// The longest text: it travels in the command, and the broker takes 1 MB at a time.
const TEXT_MAX: usize = 512 * 1024;

/// `kb.upload`: a new document, or with `documentId` a new revision of one.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Upload {
    document_id: Option<Id>,
    /// The revision that the new one follows.
    expected_version: Option<u64>,
    title: Text<200>,
    category: DocumentCategory,
    /// text/plain or text/markdown.
    content_type: Text<64>,
    /// At most 512 KiB.
    text: String,
    tags: Option<List<Text<64>, 0, 20>>,
    effective_date: Option<Date>,
    expiry_date: Option<Date>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `kb.get`, `kb.delete`, `kb.reindex`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct One {
    document_id: Id,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `kb.list`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    category: Option<DocumentCategory>,
    #[schemars(range(min = 1, max = 50))]
    limit: Option<u64>,
    cursor: Option<String>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn run(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "kb.upload" => upload(tx, command),
        "kb.search" => search::search(tx, command),
        "kb.ask" => search::ask(tx, command),
        "kb.get" => get(tx, command),
        "kb.list" => list(tx, command),
        "kb.delete" => delete(tx, command),
        "kb.reindex" => reindex(tx, command),
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
    }
}

fn find(tx: &Tx<'_>, id: Id) -> Result<Document, HandlerError> {
    Document::find(tx, id)?
        .ok_or_else(|| Rejection::new(Code::NotFound, "there is no such document").into())
}

fn check(body: &Upload) -> Result<(), Rejection> {
    match body.content_type.as_str() {
        "text/plain" | "text/markdown" => {}
        "application/pdf" => {
            let message =
                "no text extraction for PDF is installed; send text/plain or text/markdown";
            return Err(Rejection::field("contentType", message));
        }
        _ => {
            return Err(Rejection::field(
                "contentType",
                "is neither text/plain nor text/markdown",
            ));
        }
    }
    if body.text.len() > TEXT_MAX {
        return Err(Rejection::field(
            "text",
            "is longer than 512 KiB; cut the document into several",
        ));
    }
    let days = (body.effective_date, body.expiry_date);
    if matches!(days, (Some(from), Some(to)) if to < from) {
        return Err(Rejection::field("expiryDate", "is before effectiveDate"));
    }
    Ok(())
}

fn upload(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Upload = command.parse()?;
    check(&body)?;
    let old = body.document_id.map(|id| find(tx, id)).transpose()?;
    if let Some(old) = &old {
        let Some(expected) = body.expected_version else {
            return Err(Rejection::field("expectedVersion", "is missing").into());
        };
        if expected != old.revision {
            let message = format!("the document is at revision {}", old.revision);
            let details = json!({ "currentVersion": old.revision });
            let rejection = Rejection::new(Code::VersionConflict, message);
            return Err(rejection.with_details(details).into());
        }
    }
    let document = Document {
        document_id: old
            .as_ref()
            .map_or_else(|| tx.new_id(), |old| old.document_id),
        revision: old.as_ref().map_or(1, |old| old.revision + 1),
        title: body.title,
        category: body.category,
        content_type: body.content_type,
        size_bytes: body.text.len() as u64,
        status: DocumentStatus::Pending,
        tags: body
            .tags
            .map(|tags| tags.get().to_vec())
            .unwrap_or_default(),
        effective_date: body.effective_date,
        expiry_date: body.expiry_date,
        uploaded_by: command.actor().clone(),
        uploaded_at: old.as_ref().map_or(tx.now(), |old| old.uploaded_at),
        last_indexed_at: old.as_ref().and_then(|old| old.last_indexed_at),
        chunks: old.as_ref().map_or(0, |old| old.chunks),
    };
    document.save(tx, Some(&body.text))?;
    announce(tx, &document)?;
    Ok(tx.reply(&document)?)
}

fn announce(tx: &mut Tx<'_>, document: &Document) -> Result<(), HandlerError> {
    let key = format!("kb/{}/{}", document.document_id, document.revision);
    tx.emit(&DocumentUploaded {
        document_id: document.document_id,
        revision: count(document.revision)?,
        title: document.title.clone(),
        category: document.category,
        content_type: document.content_type.clone(),
        size_bytes: document.size_bytes,
        object_key: Text::lossy(&key),
        uploaded_by: document.uploaded_by.clone(),
    })?;
    Ok(())
}

pub(super) fn count(number: u64) -> Result<Count1, HandlerError> {
    Count1::new(number).map_err(|error| HandlerError::Transient(error.to_string()))
}

fn get(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: One = command.parse()?;
    let document = find(tx, body.document_id)?;
    let today = Date(tx.now().datetime().date_naive());
    if !command.caller.is_admin() && !document.in_force(today) {
        return Err(Rejection::new(Code::NotFound, "there is no such document").into());
    }
    let text = Document::body(tx, document.document_id)?;
    Ok(tx.reply(&WithText { document, text })?)
}

/// A document with its text.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DocumentWithText")]
pub(super) struct WithText {
    #[serde(flatten)]
    document: Document,
    text: Option<String>,
}

fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: ListBody = command.parse()?;
    let limit = limit(Some(body.limit.unwrap_or(10)))?;
    if limit > 50 {
        return Err(Rejection::field("limit", "not a whole number from 1 to 50").into());
    }
    let (ms, id) = cursor(body.cursor.as_deref())?;
    let today = Date(tx.now().datetime().date_naive()).to_string();
    let mut documents: Vec<Document> = tx.documents(
        "SELECT doc FROM document
         WHERE status <> 'deleted' AND (?1 IS NULL OR category = ?1)
           AND (?2 OR ((effective IS NULL OR effective <= ?3) AND (expiry IS NULL OR expiry >= ?3)))
           AND (created_at_ms, document_id) < (?4, ?5)
         ORDER BY created_at_ms DESC, document_id DESC LIMIT ?6",
        params![
            body.category.map(DocumentCategory::as_str),
            command.caller.is_admin(),
            today,
            ms,
            id,
            limit as i64 + 1
        ],
    )?;
    let more = documents.len() as u64 > limit;
    documents.truncate(limit as usize);
    let cursor = documents
        .last()
        .filter(|_| more)
        .map(|last| next(last.uploaded_at.ms(), &last.document_id.to_string()));
    Ok(tx.reply(&page(&documents, cursor))?)
}

fn delete(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: One = command.parse()?;
    let mut document = find(tx, body.document_id)?;
    move_to(&mut document, DocumentStatus::Deleted)?;
    document.chunks = 0;
    document.save(tx, Some(""))?;
    clear_index(tx, document.document_id)?;
    tx.emit(&DocumentDeleted {
        document_id: document.document_id,
        deleted_by: command.actor().clone(),
        deleted_at: tx.now(),
    })?;
    Ok(tx.reply(&document)?)
}

/// Brings the current revision to the index again.
fn reindex(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: One = command.parse()?;
    let mut document = find(tx, body.document_id)?;
    move_to(&mut document, DocumentStatus::Pending)?;
    document.save(tx, None)?;
    announce(tx, &document)?;
    Ok(tx.reply(&document)?)
}

/// Moves a document along its state table.
pub(super) fn move_to(document: &mut Document, to: DocumentStatus) -> Result<(), Rejection> {
    if !legal(document.status, to) {
        let message = format!(
            "a document that is {} can't become {}",
            document.status.as_str(),
            to.as_str()
        );
        return Err(Rejection::new(Code::InvalidTransition, message));
    }
    document.status = to;
    Ok(())
}
