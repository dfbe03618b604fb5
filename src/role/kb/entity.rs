//! Documents, their current text, and the full-text index (DOMAIN 5.10).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{Actor, Date, DocumentCategory, Id, Text, Ts};
use crate::store::{Error, Tx, params};

// Words are compared as `text::terms` makes them: no stems, and letters keep their accents.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE document (
    document_id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    category TEXT NOT NULL,
    effective TEXT,
    expiry TEXT,
    created_at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL,
    body TEXT
);
CREATE INDEX document_created ON document (created_at_ms, document_id);
CREATE VIRTUAL TABLE chunk USING fts5 (document_id UNINDEXED, n UNINDEXED, body, tokenize = 'unicode61 remove_diacritics 0');
"];

/// Where a document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are DOMAIN 5.10's own
pub enum DocumentStatus {
    Pending,
    Indexed,
    Failed,
    Deleted,
}

impl DocumentStatus {
    /// The name as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Indexed => "indexed",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
        }
    }
}

/// The state table of a document. A new revision of a pending one leaves it pending.
#[must_use]
pub fn legal(from: DocumentStatus, to: DocumentStatus) -> bool {
    use DocumentStatus as S;
    matches!(
        (from, to),
        (S::Pending, S::Pending | S::Indexed | S::Failed | S::Deleted)
            | (S::Indexed | S::Failed, S::Pending | S::Deleted)
    )
}

/// A document without its text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.10's own
pub struct Document {
    pub document_id: Id,
    pub revision: u64,
    pub title: Text<200>,
    pub category: DocumentCategory,
    pub content_type: Text<64>,
    pub size_bytes: u64,
    pub status: DocumentStatus,
    pub tags: Vec<Text<64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_date: Option<Date>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry_date: Option<Date>,
    pub uploaded_by: Actor,
    pub uploaded_at: Ts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_indexed_at: Option<Ts>,
    pub chunks: u64,
}

impl Document {
    pub(super) fn find(tx: &Tx<'_>, id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM document WHERE document_id = ?1 AND status <> 'deleted'",
            params![id.to_string()],
        )
    }

    pub(super) fn body(tx: &Tx<'_>, id: Id) -> Result<Option<String>, Error> {
        tx.value(
            "SELECT body FROM document WHERE document_id = ?1 AND body IS NOT NULL",
            params![id.to_string()],
        )
    }

    /// Saves all but the text; `body` replaces that, where it is given.
    pub(super) fn save(&self, tx: &mut Tx<'_>, body: Option<&str>) -> Result<(), Error> {
        let doc = tx.text(self)?;
        tx.execute(
            "INSERT INTO document (document_id, status, category, effective, expiry, created_at_ms, doc, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (document_id) DO UPDATE SET status = ?2, category = ?3, effective = ?4, expiry = ?5,
                 doc = ?7, body = coalesce(?8, body)",
            params![
                self.document_id.to_string(),
                self.status.as_str(),
                self.category.as_str(),
                self.effective_date.map(|date| date.to_string()),
                self.expiry_date.map(|date| date.to_string()),
                self.uploaded_at.ms(),
                doc,
                body
            ],
        )?;
        Ok(())
    }

    /// Whether everybody may read it on `today`: its last day is its expiry date.
    #[must_use]
    pub fn in_force(&self, today: Date) -> bool {
        self.effective_date.is_none_or(|from| from <= today)
            && self.expiry_date.is_none_or(|to| today <= to)
    }
}

/// Takes a document's chunks out of the index.
pub(super) fn clear_index(tx: &mut Tx<'_>, id: Id) -> Result<(), Error> {
    tx.execute(
        "DELETE FROM chunk WHERE document_id = ?1",
        params![id.to_string()],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_of_states() {
        use DocumentStatus as S;
        let all = [S::Pending, S::Indexed, S::Failed, S::Deleted];
        let pairs = all
            .iter()
            .flat_map(|from| all.iter().map(move |to| (*from, *to)));
        assert_eq!(pairs.filter(|(from, to)| legal(*from, *to)).count(), 8);
        assert!(all.iter().all(|to| !legal(S::Deleted, *to)));
    }
}
