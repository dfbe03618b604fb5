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

/// One event type's own fields; the envelope adds the base fields of DOMAIN 3.1. Of a type with several versions only the
/// shape that is written has it, so nobody can emit another (DOMAIN 3.4: producers emit one version).
pub trait Detail:
    Serialize + DeserializeOwned + JsonSchema + Clone + Debug + Send + Sync + 'static
{
    /// `detail-type`.
    const DETAIL_TYPE: &'static str;
    /// `source`, fixed per type.
    const SOURCE: Source;
    /// `detail.version` that is written, `{major}.{minor}`.
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
    /// The version that is written.
    pub version: &'static str,
    /// The versions that are read, oldest first; one of each major.
    pub versions: &'static [Version],
    /// Name of the detail's field that is the entity key; the same in every version, for it stands in the subject.
    pub entity_field: &'static str,
    /// When it is published, in words.
    pub when: &'static str,
    /// Queues it is routed to besides `reporting` and `audit`, which take every event (DOMAIN 3.3, column Queues).
    pub queues: &'static [&'static str],
}

impl EventType {
    /// The newest version that is read: what readers see, whichever version came.
    #[must_use]
    pub fn newest(&self) -> &'static str {
        // The macros give every row at least one version.
        self.versions.last().map_or(self.version, |last| last.name)
    }

    /// How a version with this major number is read: every minor of it the same way (DOMAIN 3.4).
    pub(super) fn of_major(&self, major: u32) -> Option<&'static Version> {
        let found = self.versions.iter();
        found.into_iter().find(|version| version.major() == major)
    }
}

/// One version of an event type that is read (DOMAIN 3.4).
#[derive(Debug, Clone, Copy)]
pub struct Version {
    /// `{major}.{minor}`.
    pub name: &'static str,
    pub(super) parse: Parse,
    pub(super) schema: fn() -> Schema,
}

/// Reads a detail as its own version says and gives it as the newest one.
type Parse = fn(&Value) -> Result<Known, serde_path_to_error::Error<serde_json::Error>>;

impl Version {
    /// The number before the point.
    #[must_use]
    pub fn major(&self) -> u32 {
        let major = self.name.split('.').next().unwrap_or_default();
        // A test holds every name of the catalogue to the form.
        major.parse().unwrap_or_default()
    }
}

/// Declares the fields of one version as a struct.
macro_rules! shape {
    ($entity:ident; $(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        #[allow(missing_docs)] // the fields are DOMAIN 3.3's own
        pub struct $name { $($(#[$field_meta])* pub $field: $type),* }

        impl $name {
            /// The entity key.
            #[must_use]
            pub fn entity(&self) -> $crate::event::types::Key {
                $crate::event::catalogue::entity_key(&self.$entity)
            }
        }
    };
}
pub(super) use shape;

/// Makes the shape that is written the type's [`Detail`].
macro_rules! written {
    ($known:ident as $shape:ident $version:expr, $source:expr) => {
        impl $crate::event::catalogue::Detail for $shape {
            const DETAIL_TYPE: &'static str = stringify!($known);
            const SOURCE: $crate::event::lists::Source = $source;
            const VERSION: &'static str = $version;

            fn entity(&self) -> $crate::event::types::Key {
                $shape::entity(self)
            }

            fn into_known(self) -> $crate::event::catalogue::Known {
                $crate::event::catalogue::Known::$known(Box::new(self.into()))
            }
        }
    };
}
pub(super) use written;

/// One version that is read: strictly as its own shape, so that an error names a field that the event has, and then
/// through the shape's `From` into the newest, which can't fail.
macro_rules! readable {
    ($known:ident as $shape:ident $version:expr) => {
        $crate::event::catalogue::Version {
            name: $version,
            parse: |detail| {
                serde_path_to_error::deserialize::<_, $shape>($crate::event::strict::Strict(detail))
                    .map(|shape| $crate::event::catalogue::Known::$known(Box::new(shape.into())))
            },
            schema: || schemars::schema_for!($shape),
        }
    };
}
pub(super) use readable;

/// Declares a family: for each event its struct, its [`Detail`] and its row. All of them are version 1.0 (DOMAIN 3.3).
macro_rules! events {
    ($source:expr, $entity:ident = $entity_name:literal; $(
        #[doc = $when:literal]
        $name:ident [$($queue:literal)*] { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }
    )+) => {
        $(
            $crate::event::catalogue::shape! {
                $entity; #[doc = $when] $name { $($(#[$field_meta])* $field: $type),* }
            }
            $crate::event::catalogue::written!($name as $name "1.0", $source);
        )+

        /// The family's rows.
        pub(super) const ROWS: &[$crate::event::catalogue::EventType] = &[$(
            $crate::event::catalogue::EventType {
                detail_type: stringify!($name),
                source: $source,
                version: "1.0",
                versions: &[$crate::event::catalogue::readable!($name as $name "1.0")],
                entity_field: $entity_name,
                when: $when,
                queues: &[$($queue),*],
            }
        ),+];
    };
}
pub(super) use events;

/// Declares one event of which more than one version is read (docs/events.md, "A new version"): its shapes, oldest first, each
/// older one with a `From` into the newest, which has the type's own name; and which of them is written.
macro_rules! versioned {
    ($source:expr, $entity:ident = $entity_name:literal; written = $written:ident $written_version:literal;
        #[doc = $when:literal]
        $known:ident [$($queue:literal)*]
        $($version:literal $shape:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? })+
    ) => {
        $(
            $crate::event::catalogue::shape! {
                $entity; #[doc = $when] #[doc = concat!(", version ", $version)] $shape { $($(#[$field_meta])* $field: $type),* }
            }
        )+
        $crate::event::catalogue::written!($known as $written $written_version, $source);

        /// The event's row.
        pub(super) const ROW: $crate::event::catalogue::EventType = $crate::event::catalogue::EventType {
            detail_type: stringify!($known),
            source: $source,
            version: $written_version,
            versions: &[$($crate::event::catalogue::readable!($known as $shape $version)),+],
            entity_field: $entity_name,
            when: $when,
            queues: &[$($queue),*],
        };
    };
}
pub(super) use versioned;

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
            /// The name of every type.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            /// The entity key.
            #[must_use]
            pub fn entity(&self) -> Key {
                match self { $(Self::$name(detail) => detail.entity()),+ }
            }

            /// Its own fields with the personal ones masked; nothing that the type does not know.
            #[must_use]
            pub fn masked(&self) -> Value {
                match self { $(Self::$name(detail) => super::personal::masked(detail)),+ }
            }

            /// Whether one of them is personal and plain.
            pub(super) fn has_plain(&self) -> bool {
                match self { $(Self::$name(detail) => super::personal::has_plain(detail)),+ }
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

/// The fields of a detail that name a person, the one whose personal fields they are first: what is personal in an event
/// of an incident is the driver's, in a vendor's the vendor's, in a call of an unknown number the call's own.
const SUBJECTS: [&str; 4] = ["driverId", "userId", "vendorId", "callId"];

/// Whose the personal fields of a detail are: an id of the kinds of [`SUBJECTS`].
pub(super) fn data_subject(detail: &Map<String, Value>) -> Option<&str> {
    let mut ids = SUBJECTS.iter().filter_map(|field| detail.get(*field));
    ids.find_map(Value::as_str)
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
