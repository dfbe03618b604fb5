//! TLS 1.3 and nothing older on links that leave the box (RFC 8446): the certificate that a listener shows, followed while its
//! files change, and sentences for what is wrong with the other side.

mod own;
mod trouble;

use std::path::PathBuf;

use rustls::crypto::{CryptoProvider, ring};

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

/// What rustls encrypts with here: nothing that TLS 1.2 could use.
#[must_use]
pub fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    provider
}

/// Makes [`provider`] the one of every client in this process that names none, such as the broker's. Whoever came first stays.
pub fn settle() {
    let _ = provider().install_default();
}
