//! `roadcall.kb`: key documentId, producer kb.

pub use document::*;
pub use failed::*;

use super::EventType;

/// The family's rows.
pub(super) const ROWS: &[EventType] = &[
    document::ROWS[0],
    document::ROWS[1],
    failed::ROW,
    document::ROWS[2],
];

mod document {
    //! Documents as they come, are indexed and go.
    use crate::event::catalogue::events;
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

        #[doc = "removed with its index"]
        DocumentDeleted [] {
            document_id: Id,
            deleted_by: Actor,
            deleted_at: Ts,
        }
    }
}

mod failed {
    //! The worked example of docs/events.md: what 1.0 calls `error` is `reason` from 2.0 on, as in the payments' events,
    //! for `error` is a free text of class S everywhere else (DOMAIN 3.3). It stands at step 1: readers take both, the
    //! producer still writes 1.0, so that a site that is not upgraded yet gets nothing it can't read.
    use crate::event::catalogue::versioned;
    use crate::event::lists::*;
    use crate::event::types::*;

    versioned! {
        Source::Kb, document_id = "documentId"; written = DocumentIndexingFailed1 "1.0";

        #[doc = "not indexable"]
        DocumentIndexingFailed []
        "1.0" DocumentIndexingFailed1 {
            document_id: Id,
            revision: Count1,
            error: Code,
            failed_at: Ts,
        }
        "2.0" DocumentIndexingFailed {
            document_id: Id,
            revision: Count1,
            reason: Code,
            failed_at: Ts,
        }
    }

    impl From<DocumentIndexingFailed1> for DocumentIndexingFailed {
        fn from(old: DocumentIndexingFailed1) -> Self {
            Self {
                document_id: old.document_id,
                revision: old.revision,
                reason: old.error,
                failed_at: old.failed_at,
            }
        }
    }
}
