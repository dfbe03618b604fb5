//! The store's key: read from its file, made, named without being shown.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::write_whole;
use crate::broker::Error;

/// nats-server takes a key of five characters as well; this is what a key of 24 random bytes has.
pub const CHARACTERS_MIN: usize = 32;
/// Bytes that a key made here is drawn from.
const DRAWN: usize = 32;
/// Bytes of the name of a key.
const NAMED: usize = 16;

/// What the store is encrypted with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cipher {
    /// XChaCha20-Poly1305.
    #[default]
    ChaChaPoly,
    /// AES-256-GCM.
    Aes,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChaChaPoly => "chachapoly",
            Self::Aes => "aes",
        })
    }
}

/// A key. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreKey(String);

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(…)")
    }
}

impl StoreKey {
    /// Reads the first line of a file; `None` where there is no file. `given` by the service manager, its mode is not judged.
    ///
    /// # Errors
    /// [`Error::KeyFile`]: it can't be read, others may read it, or what is in it is no key. The key is not shown.
    pub fn read(path: &Path, given: bool) -> Result<Option<Self>, Error> {
        let fail = |message: String| Error::KeyFile {
            path: path.to_owned(),
            message,
        };
        let mode = match std::fs::metadata(path) {
            Ok(metadata) => metadata.permissions().mode() & 0o777,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(format!("can't be read: {error}"))),
        };
        if !given && mode & 0o077 != 0 {
            return Err(fail(format!(
                "may be read by others (mode {mode:04o}); chmod 600 it"
            )));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| fail(format!("can't be read: {error}")))?;
        Self::parse(text.strip_suffix('\n').unwrap_or(&text))
            .map(Some)
            .map_err(fail)
    }

    /// # Errors
    /// A sentence that follows the file's name.
    fn parse(text: &str) -> Result<Self, String> {
        let length = text.chars().count();
        if length < CHARACTERS_MIN {
            return Err(format!(
                "has a key of {length} characters, at least {CHARACTERS_MIN} are needed"
            ));
        }
        // It stands between quotes in the child's environment, where these would mean something else.
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if !text.bytes().all(fits) {
            return Err(
                "has a key with blanks, quotes, backslashes or letters beyond ASCII in it; base64 or hex will do".to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// A new one, random.
    ///
    /// # Errors
    /// [`Error::NotStarted`]: the system has no randomness.
    pub fn draw() -> Result<Self, Error> {
        let mut bytes = [0; DRAWN];
        getrandom::fill(&mut bytes).map_err(|error| Error::NotStarted(error.to_string()))?;
        Ok(Self(BASE64URL_NOPAD.encode(&bytes)))
    }

    /// Writes it into a file for its owner alone.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        write_whole(path, format!("{}\n", self.0).as_bytes()).map_err(|error| Error::KeyFile {
            path: path.to_owned(),
            message: format!("can't be written: {error}"),
        })
    }

    /// Tells keys apart and gives none away.
    pub(super) fn name(&self) -> String {
        HEXLOWER.encode(&self.derive(&[b"roadcall store key"])[..NAMED])
    }

    /// As the server derives the key that wraps others, by account and what it is for.
    pub(super) fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes())
            .expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    /// As a text of the server's configuration: in quotes it is no number, comment or reference, whatever is in it.
    pub(in crate::broker) fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}
