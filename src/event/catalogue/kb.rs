//! `roadcall.kb`: key documentId, producer kb.

use super::events;
use crate::event::lists::*;
use crate::event::types::*;

events! {
    Source::Kb, document_id = "documentId";

    #[doc = "text stored"]
    DocumentUploaded ["kb"] {
        document_id: Id,
        revision: Count1,
        title: Text<200>,
        category: DocumentCategory,
        content_type: Text<64>,
        size_bytes: u64,
        object_key: Text<256>,
        uploaded_by: Actor,
    }

    #[doc = "searchable"]
    DocumentIndexed [] {
        document_id: Id,
        revision: Count1,
        chunks: Count1,
        indexed_at: Ts,
    }

    #[doc = "not indexable"]
    DocumentIndexingFailed [] {
        document_id: Id,
        revision: Count1,
        error: Code,
        failed_at: Ts,
    }

    #[doc = "removed with its index"]
    DocumentDeleted [] {
        document_id: Id,
        deleted_by: Actor,
        deleted_at: Ts,
    }
}
