//! Certificates for the links between sites: an authority of one's own and what it signs (`roadcall auth init`), and how long
//! a certificate is good for.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::pem::Pem;

use crate::event::Ts;

/// How long an authority is good for.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long what it signs is good for.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// How far clocks may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(3_600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{path}: {message}")]
    File {
        /// Which.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// What is in it, or a name.
    #[error("{0}")]
    Certificate(String),
}

fn file(path: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let path = path.display().to_string();
    move |error| Error::File {
        path: path.clone(),
        message: error.to_string(),
    }
}

fn certificate(error: impl std::fmt::Display) -> Error {
    Error::Certificate(error.to_string())
}

/// Where the parts of an authority and of a certificate are.
#[derive(Debug, Clone)]
pub struct Files {
    /// The authority's certificate: everybody may have it.
    pub ca: PathBuf,
    /// The authority's key: whoever has it is believed everywhere.
    pub ca_key: PathBuf,
    /// The box's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Files {
    /// In this directory.
    #[must_use]
    pub fn within(dir: &Path) -> Self {
        Self {
            ca: dir.join("ca.pem"),
            ca_key: dir.join("ca.key"),
            cert: dir.join("hub.pem"),
            key: dir.join("hub.key"),
        }
    }
}

/// Makes what is missing in `dir`: an authority, and a certificate for `names` (host names and addresses) that it signs.
/// With `renew` the certificate is made anew; the authority stays. What is there is never written over else.
///
/// # Errors
/// See [`Error`].
pub fn settle(dir: &Path, names: &[String], renew: bool) -> Result<Files, Error> {
    let files = Files::within(dir);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file(dir))?;
    if !files.ca.exists() && !files.ca_key.exists() {
        let key = KeyPair::generate().map_err(certificate)?;
        let made = authority().and_then(|it| it.self_signed(&key).map_err(certificate))?;
        write(&files.ca_key, &key.serialize_pem(), 0o600)?;
        write(&files.ca, &made.pem(), 0o644)?;
    }
    if renew || !files.cert.exists() {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(file(path));
        let ca_key = KeyPair::from_pem(&read(&files.ca_key)?).map_err(certificate)?;
        let issuer = Issuer::from_ca_cert_pem(&read(&files.ca)?, ca_key).map_err(certificate)?;
        let key = KeyPair::generate().map_err(certificate)?;
        let made = of_box(names)?.signed_by(&key, &issuer);
        // The key first: a certificate whose key is not there is of no use to anybody.
        write(&files.key, &key.serialize_pem(), 0o600)?;
        write(&files.cert, &made.map_err(certificate)?.pem(), 0o644)?;
    }
    Ok(files)
}

fn authority() -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(certificate)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Roadcall authority");
    live(&mut params, AUTHORITY_LIFE);
    Ok(params)
}

fn of_box(names: &[String]) -> Result<CertificateParams, Error> {
    let Some(first) = names.first() else {
        return Err(Error::Certificate(
            "a certificate needs a name that the box is reached by".to_owned(),
        ));
    };
    let mut params = CertificateParams::new(names.to_vec()).map_err(certificate)?;
    params
        .distinguished_name
        .push(DnType::CommonName, first.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Servers of a cluster are each other's clients, too.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    live(&mut params, CERTIFICATE_LIFE);
    Ok(params)
}

fn live(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + life).into();
}

/// Whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let half = path.with_extension("new");
    let mut output = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&half)
        .map_err(file(&half))?;
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.sync_all())
        .map_err(file(&half))?;
    std::fs::rename(&half, path).map_err(file(path))
}

/// What a PEM text holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A certificate and those between it and the authority's: good as long as all of them are.
    Chain,
    /// Authorities: while one is replaced the old and the new one are there, so good as long as one is.
    Authorities,
}

/// Whole days until the certificates of a PEM text have expired at the time `now`, below 0 when they have.
///
/// # Errors
/// There is none, or something that is none.
pub fn days_left(pem: &str, of: Of, now: Ts) -> Result<i64, Error> {
    let mut ends = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(certificate)?;
        let parsed = block.parse_x509().map_err(certificate)?;
        ends.push(parsed.validity().not_after.timestamp());
    }
    let end = match of {
        Of::Chain => ends.into_iter().min(),
        Of::Authorities => ends.into_iter().max(),
    };
    let end = end.ok_or_else(|| Error::Certificate("has no PEM block".to_owned()))?;
    Ok((end - now.ms().div_euclid(1000)).div_euclid(86_400))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_signs_and_stays_while_certificates_are_renewed() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = ["hub.example".to_owned(), "127.0.0.1".to_owned()];
        let files = settle(dir.path(), &names, false).expect("made");
        let read = |path: &Path| std::fs::read_to_string(path).expect("read");
        let (ca, cert) = (read(&files.ca), read(&files.cert));
        // Off by an hour, so that it does not matter in which second it was made.
        let days = |pem: &str, of, after: Duration| {
            let now = SystemTime::now() + CLOCK_SKEW + after;
            let since = now.duration_since(SystemTime::UNIX_EPOCH).expect("later");
            let now = Ts::from_ms(i64::try_from(since.as_millis()).expect("small"));
            days_left(pem, of, now).expect("a certificate")
        };
        assert_eq!(days(&cert, Of::Chain, Duration::ZERO), 364);
        assert_eq!(days(&cert, Of::Chain, CERTIFICATE_LIFE), -1);
        let both = format!("{cert}{ca}");
        assert_eq!(days(&both, Of::Chain, Duration::ZERO), 364);
        assert_eq!(days(&both, Of::Authorities, Duration::ZERO), 3649);
        for (path, mode) in [(&files.key, 0o600), (&files.ca_key, 0o600)] {
            let found = std::fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(found & 0o777, mode, "{}", path.display());
        }
        settle(dir.path(), &names, false).expect("there");
        assert_eq!(read(&files.cert), cert);
        settle(dir.path(), &names, true).expect("renewed");
        assert_ne!(read(&files.cert), cert);
        assert_eq!(read(&files.ca), ca);
        let none = settle(&dir.path().join("other"), &[], false);
        assert!(none.is_err());
        let nothing = days_left("nothing", Of::Chain, Ts::from_ms(0));
        assert!(nothing.is_err());
    }
}
