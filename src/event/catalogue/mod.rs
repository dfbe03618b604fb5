//! The catalogue of DOMAIN 3.3: every event type exists here once, as a type, and events are built only through it.
//!
//! One file per family. Each family is declared with `events!`, which makes the structs, and lists them in
//! [`catalogue()`] with source, entity key field and queues.

mod auth;
mod config;
mod incident;
mod kb;
mod matching;
mod ops;
mod payment;
mod telephony;
mod tracking;
mod vendor;

pub use auth::*;
pub use config::*;
pub use incident::*;
pub use kb::*;
pub use matching::*;
pub use ops::*;
pub use payment::*;
pub use telephony::*;
pub use tracking::*;
pub use vendor::*;

use std::fmt::Debug;

use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::lists::Source;
use super::types::Key;

/// One event type's own fields; the envelope adds the base fields of DOMAIN 3.1.
pub trait Detail:
    Serialize + DeserializeOwned + JsonSchema + Clone + Debug + Send + Sync + 'static
{
    /// `detail-type`.
    const DETAIL_TYPE: &'static str;
    /// `source`, fixed per type.
    const SOURCE: Source;
    /// `detail.version`, `{major}.{minor}`.
    const VERSION: &'static str;

    /// The entity key: last token of the subject; order is kept per key.
    fn entity(&self) -> Key;

    /// The same as a value of the sum of all types.
    fn into_known(self) -> Known;
}

/// One row of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct EventType {
    /// `detail-type`.
    pub detail_type: &'static str,
    /// `source`.
    pub source: Source,
    /// Newest version that is read and the one that is written.
    pub version: &'static str,
    /// Name of the detail's field that is the entity key.
    pub entity_field: &'static str,
    /// When it is published, in words.
    pub when: &'static str,
    /// Queues it is routed to besides `reporting` and `audit`, which take every event (DOMAIN 3.3, column Queues).
    pub queues: &'static [&'static str],
    pub(super) parse: fn(&Value) -> Result<Known, serde_path_to_error::Error<serde_json::Error>>,
    pub(super) schema: fn() -> Schema,
}

/// Declares a family: for each event its struct, its [`Detail`] and its row.
macro_rules! events {
    ($source:expr, $entity:ident = $entity_name:literal; $(
        #[doc = $when:literal]
        $name:ident [$($queue:literal)*] { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }
    )+) => {
        $(
            #[doc = $when]
            #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
            #[serde(rename_all = "camelCase")]
            #[allow(missing_docs)] // the fields are DOMAIN 3.3's own
            pub struct $name { $($(#[$field_meta])* pub $field: $type),* }

            impl $crate::event::catalogue::Detail for $name {
                const DETAIL_TYPE: &'static str = stringify!($name);
                const SOURCE: $crate::event::lists::Source = $source;
                const VERSION: &'static str = "1.0";

                fn entity(&self) -> $crate::event::types::Key {
                    $crate::event::catalogue::entity_key(&self.$entity)
                }

                fn into_known(self) -> $crate::event::catalogue::Known {
                    $crate::event::catalogue::Known::$name(Box::new(self))
                }
            }
        )+

        /// The family's rows.
        pub(super) const ROWS: &[$crate::event::catalogue::EventType] = &[$(
            $crate::event::catalogue::EventType {
                detail_type: stringify!($name),
                source: $source,
                version: "1.0",
                entity_field: $entity_name,
                when: $when,
                queues: &[$($queue),*],
                parse: |detail| {
                    serde_path_to_error::deserialize::<_, $name>($crate::event::strict::Strict(detail))
                        .map($crate::event::catalogue::Detail::into_known)
                },
                schema: || schemars::schema_for!($name),
            }
        ),+];
    };
}
pub(super) use events;

/// An entity field as a key. Ids, keys and configuration keys always fit.
pub(super) fn entity_key(field: &impl ToString) -> Key {
    let text = field.to_string();
    // Every entity field is an Id, a Key or a closed list of words, all of which are keys.
    Key::new(text).unwrap_or_else(|_| Key::new("unknown").expect("a word is a key"))
}

macro_rules! known {
    ($($name:ident)+) => {
        /// Any event of the catalogue, typed.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)] // the names are DOMAIN 3.3's own
        pub enum Known { $($name(Box<$name>)),+ }

        impl Known {
            /// The entity key.
            #[must_use]
            pub fn entity(&self) -> Key {
                match self { $(Self::$name(detail) => detail.entity()),+ }
            }

            /// Its name.
            #[must_use]
            pub fn detail_type(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name)),+ }
            }
        }
    };
}

known! {
    IncidentCreated IncidentStatusChanged IncidentAssigned IncidentCancelled IncidentEscalated WorkStarted WorkCompleted
    MatchRequested VendorTimeout IncidentRated
    VendorRegistered VendorUpdated VendorMetricsUpdated VendorStatusChanged VendorLocationUpdated
    OfferCreated OfferAccepted OfferDeclined OfferExpired OfferCancelled MatchExhausted
    TrackingStarted TrackingUpdated TrackingStopped VendorArrived
    PaymentCreated PaymentFlagged PaymentApproved PaymentRejected PaymentRequiresAction PaymentCompleted PaymentFailed
    PaymentRefunded
    CallStarted CallEnded TranscriptReady CallSummaryGenerated IncidentRequested CallAttentionNeeded PiiAccessed
    UserRegistered UserVerified UserUpdated UserDataDeleted
    DocumentUploaded DocumentIndexed DocumentIndexingFailed DocumentDeleted
    ConfigurationChanged
    AlarmRaised AlarmCleared ReplayStarted ReplayCompleted ReplayCancelled SiteReported DeadLetterCreated
    DeadLetterRedriven DeadLetterPurged
}

/// Every event type, family by family in DOMAIN's order.
pub fn catalogue() -> impl Iterator<Item = &'static EventType> {
    [
        incident::ROWS,
        vendor::ROWS,
        matching::ROWS,
        tracking::ROWS,
        payment::ROWS,
        telephony::ROWS,
        auth::ROWS,
        kb::ROWS,
        config::ROWS,
        ops::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// The row of a detail-type.
#[must_use]
pub fn lookup(detail_type: &str) -> Option<&'static EventType> {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    static ROWS: OnceLock<HashMap<&'static str, &'static EventType>> = OnceLock::new();
    ROWS.get_or_init(|| catalogue().map(|row| (row.detail_type, row)).collect())
        .get(detail_type)
        .copied()
}

/// Kinds of ids that a detail's fields name, for `resources` (DOMAIN 3.1).
const RESOURCES: [(&str, &str); 9] = [
    ("incidentId", "incident"),
    ("vendorId", "vendor"),
    ("offerId", "offer"),
    ("sessionId", "tracking"),
    ("paymentId", "payment"),
    ("callId", "call"),
    ("driverId", "user"),
    ("userId", "user"),
    ("documentId", "document"),
];

/// `kind/id` for each id in a detail.
pub fn resources(detail: &Map<String, Value>) -> Vec<String> {
    RESOURCES
        .iter()
        .filter_map(|(field, kind)| {
            detail
                .get(*field)
                .and_then(Value::as_str)
                .map(|id| format!("{kind}/{id}"))
        })
        .collect()
}
