//! Finding what is written (DOMAIN 5.10, kb.search and kb.ask).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::{confidence, first_words, terms};
use crate::event::{Date, DocumentCategory, Id, Text};
use crate::role::listing::page;
use crate::role::{Command, HandlerError, Rejection};
use crate::store::{Tx, params};

/// Results where no limit is given, and at the most.
const LIMITS: (u64, u64) = (10, 50);
/// Chunks that are looked at, by bm25.
const LOOKED_AT: i64 = 200;
/// Sources of an answer, their least confidence, and the answer's words.
const SOURCES: usize = 3;
const SURE: f64 = 0.70;
const WORDS: usize = 500;

/// `kb.search`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Search {
    query: Text<500>,
    category: Option<DocumentCategory>,
    #[schemars(range(min = 1, max = 50))]
    limit: Option<u64>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `kb.ask`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ask {
    question: Text<500>,
    category: Option<DocumentCategory>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A chunk as the index gives it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hit {
    document_id: Id,
    revision: u64,
    title: String,
    category: DocumentCategory,
    chunk: u64,
    snippet: String,
    body: String,
    bm25: f64,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    document_id: Id,
    revision: u64,
    title: String,
    category: DocumentCategory,
    chunk: u64,
    snippet: String,
    confidence: f64,
    #[serde(skip)]
    body: String,
}

pub(super) fn search(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Search = command.parse()?;
    let limit = match body.limit.unwrap_or(LIMITS.0) {
        limit @ 1..=50 => limit as usize,
        _ => return Err(Rejection::field("limit", "not a whole number from 1 to 50").into()),
    };
    let query = terms(body.query.as_str());
    if query.is_empty() {
        return Err(Rejection::field("query", "has no word in it").into());
    }
    let mut found = find(tx, &query, body.category)?;
    found.truncate(limit);
    Ok(tx.reply(&page(&found, None))?)
}

pub(super) fn ask(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Ask = command.parse()?;
    let query = terms(body.question.as_str());
    if query.is_empty() {
        return Err(Rejection::field("question", "has no word in it").into());
    }
    let mut found = find(tx, &query, body.category)?;
    found.retain(|one| one.confidence >= SURE);
    found.truncate(SOURCES);
    let texts: Vec<&str> = found.iter().map(|one| one.body.as_str()).collect();
    let answer = match texts.as_slice() {
        [] => "no answer found".to_owned(),
        texts => first_words(&texts.join("\n\n"), WORDS),
    };
    Ok(tx.reply(&Answer {
        answered: !found.is_empty(),
        answer,
        sources: found,
    })?)
}

/// An answer out of documents, with the chunks that it is from.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    answered: bool,
    answer: String,
    sources: Vec<Found>,
}

/// Chunks of documents in force, the most confident first.
fn find(
    tx: &Tx<'_>,
    query: &BTreeSet<String>,
    category: Option<DocumentCategory>,
) -> Result<Vec<Found>, HandlerError> {
    let quoted: Vec<String> = query.iter().map(|term| format!("\"{term}\"")).collect();
    let today = Date(tx.now().datetime().date_naive()).to_string();
    let hits: Vec<Hit> = tx.documents(
        "SELECT json_object('documentId', chunk.document_id, 'revision', json_extract(document.doc, '$.revision'),
                'title', json_extract(document.doc, '$.title'), 'category', document.category, 'chunk', chunk.n,
                'snippet', snippet(chunk, 2, '', '', '…', 40), 'body', chunk.body, 'bm25', bm25(chunk))
         FROM chunk JOIN document ON document.document_id = chunk.document_id
         WHERE chunk MATCH ?1 AND (?2 IS NULL OR document.category = ?2) AND document.status <> 'deleted'
           AND (document.effective IS NULL OR document.effective <= ?3)
           AND (document.expiry IS NULL OR document.expiry >= ?3)
         ORDER BY bm25(chunk), chunk.document_id, chunk.n LIMIT ?4",
        params![
            quoted.join(" OR "),
            category.map(DocumentCategory::as_str),
            today,
            LOOKED_AT
        ],
    )?;
    // bm25 is negative here: the best is the least.
    let best = hits.first().map_or(0.0, |hit| hit.bm25);
    let mut found: Vec<Found> = hits
        .into_iter()
        .map(|hit| Found {
            confidence: confidence(query, &hit.body, hit.bm25, best),
            document_id: hit.document_id,
            revision: hit.revision,
            title: hit.title,
            category: hit.category,
            chunk: hit.chunk,
            snippet: hit.snippet,
            body: hit.body,
        })
        .collect();
    // Stable: of two as sure the better by bm25 stays first.
    found.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    Ok(found)
}
