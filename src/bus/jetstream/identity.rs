//! Who a connection is: a key pair whose seed is read anew at each connection, so that a renewed one is used from the next on.

use std::fmt;
use std::sync::Arc;

use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;

/// Gives a seed, or a sentence why there is none.
type Source = dyn Fn() -> Result<String, String> + Send + Sync;

/// As whom to connect: as who has the seed that this gives.
#[derive(Clone)]
pub struct Identity(Arc<Source>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// `source` is asked at each connection.
    pub fn new(source: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// Whether a connection could be made as this one, as far as it can be told here.
    pub(super) fn check(&self) -> Result<(), String> {
        self.pair().map(drop)
    }

    fn pair(&self) -> Result<KeyPair, String> {
        KeyPair::from_seed(&(self.0)()?).map_err(|error| error.to_string())
    }

    pub(super) fn options(&self) -> ConnectOptions {
        let identity = self.clone();
        ConnectOptions::with_auth_callback(move |nonce| {
            let proof = identity.proof(&nonce).map_err(AuthError::new);
            async move { proof }
        })
    }

    /// What the server is shown, which has drawn `nonce`.
    fn proof(&self, nonce: &[u8]) -> Result<Auth, String> {
        let pair = self.pair()?;
        let mut auth = Auth::new();
        auth.signature = Some(pair.sign(nonce).map_err(|error| error.to_string())?);
        auth.nkey = Some(pair.public_key());
        Ok(auth)
    }
}
