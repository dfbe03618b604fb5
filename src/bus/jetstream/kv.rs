//! Buckets: one value per key, with the history that the topology gives them. Only what ownership of a queue needs.

use async_nats::jetstream::kv::{CreateErrorKind, Store};
use bytes::Bytes;
use serde_json::Value;

use super::JetStream;
use crate::bus::Error;

impl JetStream {
    async fn bucket(&self, bucket: &str) -> Result<Store, Error> {
        // Names a missing bucket as such; the client library would only say that something went wrong.
        self.api(&format!("STREAM.INFO.KV_{bucket}"), &Value::Null)
            .await?;
        async_nats::jetstream::new(self.inner.client.clone())
            .get_key_value(bucket)
            .await
            .map_err(unavailable)
    }

    /// Puts `value` where `key` has none yet; else gives what stands there.
    ///
    /// # Errors
    /// [`Error::Missing`] without the bucket, [`Error::Unavailable`] when it is unknown what stands there now.
    pub async fn kv_create(
        &self,
        bucket: &str,
        key: &str,
        value: Vec<u8>,
    ) -> Result<Option<Bytes>, Error> {
        let store = self.bucket(bucket).await?;
        match store.create(key, value.into()).await {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                let value = store.get(key).await.map_err(unavailable)?;
                let gone = || Error::Unavailable(format!("{key} in {bucket} changes right now"));
                value.map(Some).ok_or_else(gone)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Puts `value`, whatever stood there.
    ///
    /// # Errors
    /// See [`JetStream::kv_create`].
    pub async fn kv_put(&self, bucket: &str, key: &str, value: Vec<u8>) -> Result<(), Error> {
        let store = self.bucket(bucket).await?;
        store
            .put(key, value.into())
            .await
            .map(|_| ())
            .map_err(unavailable)
    }

    /// What stands under `key`.
    ///
    /// # Errors
    /// See [`JetStream::kv_create`].
    pub async fn kv_get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, Error> {
        let store = self.bucket(bucket).await?;
        store.get(key).await.map_err(unavailable)
    }
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}
