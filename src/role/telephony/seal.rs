//! Sealing of raw transcripts where they rest (DOMAIN 3.2 and 5.8): ChaCha20-Poly1305 under the site's key, bound to the
//! transcript that it belongs to.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// The key's length in bytes.
pub const KEY_LEN: usize = 32;

/// A key that seals and opens. Its debug form does not show it.
#[derive(Clone)]
pub struct Sealer(LessSafeKey);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// A sealer with this key.
    #[must_use]
    pub fn new(key: &[u8; KEY_LEN]) -> Option<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    /// Seals `text` for `subject`. `nonce` must be chance: no two texts may have one.
    #[must_use]
    pub fn seal(&self, nonce: [u8; NONCE_LEN], subject: &str, text: &str) -> Option<Vec<u8>> {
        let mut sealed = text.as_bytes().to_vec();
        let aad = Aad::from(subject.as_bytes());
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// Opens what [`Sealer::seal`] sealed for the same subject; nothing where it was changed or the key is another.
    #[must_use]
    pub fn open(&self, subject: &str, sealed: &[u8]) -> Option<String> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let aad = Aad::from(subject.as_bytes());
        let text = self.0.open_in_place(nonce, aad, &mut sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_and_the_subject_open_it() {
        let sealer = Sealer::new(&[1; KEY_LEN]).expect("a key");
        let sealed = sealer
            .seal([2; NONCE_LEN], "t1", "call +15551234567")
            .expect("sealed");
        assert!(!String::from_utf8_lossy(&sealed).contains("555"));
        let opened = sealer.open("t1", &sealed);
        assert_eq!(opened.as_deref(), Some("call +15551234567"));
        assert_eq!(sealer.open("t2", &sealed), None);
        let other = Sealer::new(&[3; KEY_LEN]).expect("a key");
        assert_eq!(other.open("t1", &sealed), None);
        assert_eq!(sealer.open("t1", &sealed[..5]), None);
    }
}
