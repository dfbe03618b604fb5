//! An authority of the test's own and what it signs, as files.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

const DAY: Duration = Duration::from_secs(86_400);

/// An authority, with its certificate in a directory.
pub struct Authority {
    pub ca: PathBuf,
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new one, whose file is `<name>.pem`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = dir.join(format!("{name}.pem"));
        let made = params.self_signed(&key).expect("signed");
        std::fs::write(&ca, made.pem()).expect("written");
        Self {
            ca,
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for a name or an address that is good for so many days, and a bit; the files are `<file>.pem` and
    /// `<file>.key`.
    pub fn sign(&self, file: &str, name: &str, days: i64) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let now = SystemTime::now();
        let life = DAY * u32::try_from(days.abs()).expect("a few");
        let end = match days < 0 {
            true => now - life - DAY / 2,
            false => now + life + DAY / 2,
        };
        params.not_before = (end - 400 * DAY).into();
        params.not_after = end.into();
        let made = params.signed_by(&key, &self.issuer).expect("signed");
        let pair = Pair {
            cert: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}.key")),
        };
        std::fs::write(&pair.key, key.serialize_pem()).expect("written");
        std::fs::write(&pair.cert, made.pem()).expect("written");
        pair
    }
}
