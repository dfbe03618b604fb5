//! What the role auth signs and hashes with. The node keeps it in the state directory and hands it over; nothing here is
//! ever shown.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};

/// A key that signs, with the name that tokens call it by.
pub struct SigningKey {
    kid: String,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    fn of_seed(seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        // RFC 7638: members in this order, without spaces. So the same key has the same name wherever it is seen.
        let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let kid = BASE64URL_NOPAD.encode(&Sha256::digest(thumbprint));
        Some(Self { kid, pair })
    }

    /// Its name.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its public half, 32 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Signs; the same text always gets the same signature.
    pub(super) fn sign(&self, text: &[u8]) -> Vec<u8> {
        self.pair.sign(text).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

/// Signing keys, the newest first, and the pepper.
pub struct Keys {
    signing: Vec<SigningKey>,
    pepper: hmac::Key,
}

impl Keys {
    /// From the seeds of the signing keys, the newest first, and 32 bytes of pepper.
    ///
    /// # Errors
    /// A seed that makes no key.
    pub fn new(seeds: &[[u8; 32]], pepper: [u8; 32]) -> Result<Self, String> {
        let signing: Option<Vec<SigningKey>> = seeds.iter().map(SigningKey::of_seed).collect();
        Ok(Self {
            signing: signing.ok_or("a seed makes no key")?,
            pepper: hmac::Key::new(hmac::HMAC_SHA256, &pepper),
        })
    }

    /// The keys whose tokens count; the first one signs. Empty for a role that has been given none.
    #[must_use]
    pub fn signing(&self) -> &[SigningKey] {
        &self.signing
    }

    /// A keyed hash of parts, in hexadecimal. The parts are told apart by their lengths.
    pub(super) fn hash(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.pepper);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        data_encoding::HEXLOWER.encode(context.sign().as_ref())
    }
}

impl Default for Keys {
    /// None: a role that signs nothing, for looking at its tables and commands.
    fn default() -> Self {
        Self {
            signing: Vec::new(),
            pepper: hmac::Key::new(hmac::HMAC_SHA256, &[]),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.signing).finish()
    }
}
