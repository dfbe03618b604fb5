//! What can go wrong with a role's database, sorted by what the process has to do about it.

use std::path::{Path, PathBuf};

/// Why a store operation failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{op} in {}: {message}", path.display())]
pub struct Error {
    /// What to do about it.
    pub class: Class,
    /// What was being done, in the store's words.
    pub op: &'static str,
    /// SQLite's own words, or ours.
    pub message: String,
    /// The database file.
    pub path: PathBuf,
}

/// What an [`Error`] means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No space left: nothing was committed; fatal until space is freed.
    Full,
    /// The file or the disk under it failed.
    Io,
    /// The file is not a sound SQLite database.
    Corrupt,
    /// The file or its directory can't be written.
    ReadOnly,
    /// Another process holds the database; trying again can succeed.
    Busy,
    /// Written by a newer Roadcall than this one.
    NewerSchema,
    /// A key that personal data is sealed with can't be had now; trying again can succeed.
    NoKey,
    /// Nobody who can be asked has a key that personal data is sealed with: it may be on its way from the site that made it.
    UnknownKey,
    /// A statement did not fit the schema, or a stored document did not parse: a defect of ours.
    Defect,
}

impl Error {
    /// Whether the process must stop consuming and exit (DESIGN 4: full, I/O, corrupt or read-only).
    #[must_use]
    pub fn fatal(&self) -> bool {
        matches!(
            self.class,
            Class::Full | Class::Io | Class::Corrupt | Class::ReadOnly | Class::NewerSchema
        )
    }

    pub(super) fn new(
        class: Class,
        op: &'static str,
        path: &Path,
        message: impl Into<String>,
    ) -> Self {
        Self {
            class,
            op,
            message: message.into(),
            path: path.to_owned(),
        }
    }

    pub(super) fn sqlite(op: &'static str, path: &Path, error: &rusqlite::Error) -> Self {
        Self::new(classify(error), op, path, error.to_string())
    }
}

fn classify(error: &rusqlite::Error) -> Class {
    use rusqlite::ErrorCode as E;
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return Class::Defect;
    };
    match failure.code {
        E::DiskFull => Class::Full,
        E::DatabaseCorrupt | E::NotADatabase => Class::Corrupt,
        E::ReadOnly | E::CannotOpen | E::PermissionDenied => Class::ReadOnly,
        E::DatabaseBusy | E::DatabaseLocked => Class::Busy,
        E::SystemIoFailure | E::FileLockingProtocolFailed | E::NoLargeFileSupport => Class::Io,
        _ => Class::Defect,
    }
}
