//! TLS 1.3 and nothing older on links that leave the box (RFC 8446): the certificate that a listener shows, followed while its
//! files change, and sentences for what is wrong with the other side.

mod own;
mod trouble;

use std::path::PathBuf;

pub use own::Own;
pub use trouble::trouble;

/// Why a certificate can't be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{key} {}: {message}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Two files that do not belong together.
    #[error("tls.key_file {} is not the key of tls.cert_file {}", key.display(), cert.display())]
    Apart {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
}
