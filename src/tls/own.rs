//! This box's certificate with its key, as its files have it now.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use sha2::{Digest as _, Sha256};

use super::Error;

/// What both files had in them.
type Read = [u8; 32];

/// A certificate and its key. Whoever connects gets those that were read last; who is in keeps his connection.
#[derive(Debug)]
pub struct Own {
    cert_file: PathBuf,
    key_file: PathBuf,
    shown: RwLock<(Read, Arc<CertifiedKey>)>,
}

impl Own {
    /// Reads both files.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(cert_file: &Path, key_file: &Path) -> Result<Arc<Self>, Error> {
        let bytes = bytes_of(cert_file, key_file)?;
        let key = certified(cert_file, key_file, &bytes)?;
        Ok(Arc::new(Self {
            cert_file: cert_file.to_owned(),
            key_file: key_file.to_owned(),
            shown: RwLock::new((digest(&bytes), key)),
        }))
    }

    /// Reads the files again; says whether others are shown from now on. What does not fit changes nothing: of two files that
    /// are being renewed one comes first.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn look(&self) -> Result<bool, Error> {
        let bytes = bytes_of(&self.cert_file, &self.key_file)?;
        let read = digest(&bytes);
        if self.shown.read().unwrap_or_else(PoisonError::into_inner).0 == read {
            return Ok(false);
        }
        let key = certified(&self.cert_file, &self.key_file, &bytes)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = (read, key);
        Ok(true)
    }

    /// For a listener that speaks HTTP/1.1 in TLS 1.3 and shows this certificate to whoever comes.
    #[must_use]
    pub fn server(self: &Arc<Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(super::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has cipher suites of TLS 1.3");
        let shown = Arc::clone(self) as Arc<dyn ResolvesServerCert>;
        let mut config = builder.with_no_client_auth().with_cert_resolver(shown);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown.1))
    }
}

fn bytes_of(cert_file: &Path, key_file: &Path) -> Result<[Vec<u8>; 2], Error> {
    let read = |key: &'static str, path: &Path| {
        std::fs::read(path).map_err(|error| wrong(key, path, error.to_string()))
    };
    Ok([
        read("tls.cert_file", cert_file)?,
        read("tls.key_file", key_file)?,
    ])
}

fn digest([cert, key]: &[Vec<u8>; 2]) -> Read {
    let mut both = Sha256::new();
    both.update((cert.len() as u64).to_be_bytes());
    both.update(cert);
    both.update(key);
    both.finalize().into()
}

fn wrong(key: &'static str, path: &Path, message: impl Into<String>) -> Error {
    Error::File {
        key,
        path: path.to_owned(),
        message: message.into(),
    }
}

fn certified(
    cert_file: &Path,
    key_file: &Path,
    [cert, key]: &[Vec<u8>; 2],
) -> Result<Arc<CertifiedKey>, Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("tls.cert_file", cert_file, "is not PEM"))?;
    if chain.is_empty() {
        return Err(wrong("tls.cert_file", cert_file, "has no certificate"));
    }
    // The parser's own words may quote the key.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| wrong("tls.key_file", key_file, "has no private key in PEM"))?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(Error::Apart {
            cert: cert_file.to_owned(),
            key: key_file.to_owned(),
        }),
        Err(_) => Err(wrong(
            "tls.key_file",
            key_file,
            "is no key that can be used, or its certificate is none",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn what_changes_is_shown_once_both_files_fit() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let (old, new) = (made("old.example"), made("new.example"));
        let write = |path: &Path, text: &str| std::fs::write(path, text).expect("written");
        write(&cert, &old.0);
        let none = Own::read(&cert, &key).expect_err("no key yet").to_string();
        assert!(none.starts_with("tls.key_file"), "{none}");
        write(&key, &old.1);
        let own = Own::read(&cert, &key).expect("read");
        assert_eq!(own.look(), Ok(false));
        let shown = || {
            let shown = own.shown.read().expect("held");
            shown.1.cert[0].clone()
        };
        let first = shown();

        write(&key, &new.1);
        let apart = own.look().expect_err("the certificate is the old one");
        assert!(matches!(apart, Error::Apart { .. }), "{apart}");
        assert_eq!(shown(), first);
        write(&cert, &new.0);
        assert_eq!(own.look(), Ok(true));
        assert_ne!(shown(), first);
        assert_eq!(own.look(), Ok(false));

        write(&key, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n");
        let words = own.look().expect_err("half a key").to_string();
        assert!(
            words.ends_with("has no private key in PEM") && !words.contains("c2V"),
            "{words}"
        );
        write(&cert, "nothing");
        let words = own.look().expect_err("no certificate").to_string();
        assert!(words.ends_with("has no certificate"), "{words}");
    }
}
