//! Who a connection is: a key pair whose seed is read anew at each connection, so that a renewed one is used from the next on, or
//! a user with a password that only this process knows.

use std::fmt;
use std::sync::Arc;

use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;

/// Gives a seed, or a sentence why there is none.
type Source = dyn Fn() -> Result<String, String> + Send + Sync;

/// As whom to connect.
#[derive(Clone)]
pub enum Identity {
    /// Who has this seed.
    Seed(Arc<Source>),
    /// A user by name.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seed(_) => "Identity(seed)",
            Self::Password { .. } => "Identity(password)",
        })
    }
}

impl Identity {
    /// Who has the seed that `source` gives; it is asked at each connection.
    pub fn by_seed(source: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self::Seed(Arc::new(source))
    }

    /// Whether a connection could be made as this one, as far as it can be told here.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Seed(source) => source().map(drop),
            Self::Password { .. } => Ok(()),
        }
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
        let mut auth = Auth::new();
        match self {
            Self::Seed(source) => {
                let pair = KeyPair::from_seed(&source()?).map_err(|error| error.to_string())?;
                auth.nkey = Some(pair.public_key());
                auth.signature = Some(pair.sign(nonce).map_err(|error| error.to_string())?);
            }
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
        }
        Ok(auth)
    }
}
