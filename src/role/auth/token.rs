//! temp
use crate::event::Ts;
use crate::role::permission::Caller;
/// t
pub struct Keys;
impl Keys {
    /// t
    pub fn parse(_v: &serde_json::Value) -> Result<Self, Error> {
        Ok(Self)
    }
}
/// t
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// t
    #[error("x")]
    UnknownKey,
    /// t
    #[error("y")]
    Bad,
}
/// t
pub struct Claims;
impl Claims {
    /// t
    pub fn caller(self) -> Caller {
        Caller::of(crate::event::Actor::System("x".into()))
    }
}
/// t
pub fn verify(_t: &str, _k: &Keys, _n: Ts) -> Result<Claims, Error> {
    Err(Error::Bad)
}
