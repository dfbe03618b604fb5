//! The closed lists of DOMAIN 3.2 and 3.3, and the actors of 1.2.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::types::{Id, TypeError};

/// Makes a closed list: an enum whose names on the wire stand beside its variants.
macro_rules! closed_list {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)] // the names are DOMAIN's own
        pub enum $name { $($variant),+ }

        impl $name {
            /// Every value, in DOMAIN's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value as it stands on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = TypeError;
            fn from_str(text: &str) -> Result<Self, TypeError> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(TypeError::new(format!("'{}' is none of {}", text.chars().take(40).collect::<String>(), [$($text),+].join(", ")))),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": [$($text),+] })
            }
        }
    )+};
}

closed_list! {
    /// What broke.
    IncidentType { Tire = "tire", Engine = "engine", Tow = "tow" }
    /// How urgent.
    Priority { Low = "low", Normal = "normal", High = "high", Critical = "critical" }
    /// Where an incident stands (DOMAIN 5.1).
    IncidentStatus {
        Created = "created", VendorAssigned = "vendor_assigned", VendorEnRoute = "vendor_en_route",
        VendorArrived = "vendor_arrived", WorkInProgress = "work_in_progress", WorkCompleted = "work_completed",
        PaymentPending = "payment_pending", Closed = "closed", Cancelled = "cancelled",
    }
    /// What a vendor can do.
    Capability {
        TireRepair = "tire_repair", TireReplacement = "tire_replacement", EngineRepair = "engine_repair",
        Towing = "towing", Jumpstart = "jumpstart", FuelDelivery = "fuel_delivery",
    }
    /// Who pays.
    Payer { BackOffice = "back_office", DriverIc = "driver_ic" }
    /// How an incident came in.
    IncidentOrigin { App = "app", Call = "call" }
    /// Why dispatchers are called.
    EscalationReason {
        NoVendor = "no_vendor", MatchingTooLate = "matching_too_late", CycleLimit = "cycle_limit",
        WorkOverdue = "work_overdue", PaymentOverdue = "payment_overdue",
    }
    /// Why matching starts again.
    MatchRequestReason {
        VendorTimeout = "vendor_timeout", VendorWithdrew = "vendor_withdrew",
        DispatcherRelease = "dispatcher_release", DispatcherRestart = "dispatcher_restart",
    }
    /// What timed out.
    TimeoutType { Arrival = "arrival" }
    /// Who rated.
    RatedBy { Driver = "driver", Vendor = "vendor" }
    /// State of a vendor's background check.
    BackgroundCheckStatus { Pending = "pending", Approved = "approved", Rejected = "rejected" }
    /// Whether a vendor can take a job.
    VendorStatus { Available = "available", Busy = "busy", Offline = "offline" }
    /// Why that changed.
    VendorStatusReason {
        OfferAccepted = "offer_accepted", WorkCompleted = "work_completed", Released = "released", Manual = "manual",
    }
    /// What an offer was before it was cancelled.
    OfferPreviousStatus { Pending = "pending", Accepted = "accepted" }
    /// Why an offer was withdrawn.
    OfferCancelReason {
        OtherAccepted = "other_accepted", VendorTaken = "vendor_taken", AssignedManually = "assigned_manually",
        IncidentCancelled = "incident_cancelled", VendorTimeout = "vendor_timeout", VendorWithdrew = "vendor_withdrew",
        DispatcherRelease = "dispatcher_release", VendorErased = "vendor_erased",
    }
    /// Why matching ended without a vendor.
    ExhaustReason { NoVendor = "no_vendor", TooOld = "too_old", CycleLimit = "cycle_limit" }
    /// Why a tracking session ended.
    TrackingStopReason {
        WorkCompleted = "work_completed", IncidentCancelled = "incident_cancelled", VendorReleased = "vendor_released",
        Manual = "manual",
    }
    /// Where a new payment stands.
    NewPaymentStatus { PendingApproval = "pending_approval", Approved = "approved" }
    /// Band of a fraud score.
    FraudStatus { LowRisk = "low_risk", MediumRisk = "medium_risk", HighRisk = "high_risk", Flagged = "flagged" }
    /// What a payment waits for.
    PaymentAction { ConfirmCard = "confirm_card" }
    /// Who called whom.
    CallDirection { Inbound = "inbound", Outbound = "outbound" }
    /// How a call ended.
    Disposition { Completed = "completed", Abandoned = "abandoned", Failed = "failed" }
    /// How urgent a call sounded.
    Urgency { Low = "low", Medium = "medium", High = "high", Critical = "critical" }
    /// What a call's intake lacks.
    IntakeField { Driver = "driver", Type = "type", Location = "location" }
    /// Who looked at masked data.
    RevealRole { Dispatcher = "dispatcher", Admin = "admin", Operator = "operator" }
    /// A person's role.
    UserRole { Driver = "driver", Vendor = "vendor", Dispatcher = "dispatcher", Admin = "admin" }
    /// How a driver is paid for.
    PaymentType { Company = "company", IndependentContractor = "independent_contractor" }
    /// Whether an account works.
    UserStatus { Active = "active", Suspended = "suspended" }
    /// Where an account stands (DOMAIN 5.9); events tell only of active and suspended ones.
    AccountStatus { Pending = "pending", Active = "active", Suspended = "suspended", Erased = "erased" }
    /// What a person is asked to agree to (DOMAIN 5.9).
    ConsentKind {
        DataProcessing = "data_processing", Marketing = "marketing", LocationTracking = "location_tracking",
        CallRecording = "call_recording", DataSharing = "data_sharing",
    }
    /// Why a person was erased.
    ErasureReason { Request = "request", Inactivity = "inactivity" }
    /// What a document is.
    DocumentCategory { Sop = "sop", VendorSla = "vendor_sla", Troubleshooting = "troubleshooting", Policy = "policy" }
    /// A key of the platform's configuration (DOMAIN 5.11).
    ConfigKey {
        Matching = "matching", SlaTiers = "sla-tiers", Pricing = "pricing", Geofences = "geofences", Fraud = "fraud",
    }
    /// How a configuration version came about.
    ConfigChange { Created = "created", Updated = "updated", RolledBack = "rolled_back" }
    /// How bad an alarm is.
    AlarmSeverity { Warning = "warning", Critical = "critical" }
    /// What a replay does with what is done already.
    ReplayMode { Fill = "fill", Force = "force" }
    /// How a replay ended by itself.
    ReplayEnd { Completed = "COMPLETED", Failed = "FAILED" }
    /// Why a message was given up.
    DeadReason {
        HandlerFailed = "handler_failed", InvalidEvent = "invalid_event", UnsupportedVersion = "unsupported_version",
        Conflict = "conflict", DeliveryExhausted = "delivery_exhausted", ProcessDied = "process_died",
    }
    /// A kind of message to a person (DOMAIN 5.6).
    NotificationType {
        OfferReceived = "offer_received", OfferAccepted = "offer_accepted", OfferWithdrawn = "offer_withdrawn",
        JobWithdrawn = "job_withdrawn", JobAssigned = "job_assigned", VendorEnRoute = "vendor_en_route",
        VendorArrived = "vendor_arrived", Rematching = "rematching", IncidentCancelled = "incident_cancelled",
        IncidentEscalated = "incident_escalated", WorkStarted = "work_started", WorkCompleted = "work_completed",
        PaymentCreated = "payment_created", PaymentFlagged = "payment_flagged", PaymentApproved = "payment_approved",
        PaymentCompleted = "payment_completed", PaymentRejected = "payment_rejected",
        PaymentRefunded = "payment_refunded", PaymentFailed = "payment_failed", PaymentAction = "payment_action",
        CallSummary = "call_summary", CallAttention = "call_attention", LocationRequest = "location_request",
        SystemAlert = "system_alert", OtpCode = "otp_code",
    }
    /// How a message reaches a person.
    Channel { Push = "push", Sms = "sms", Email = "email" }
    /// How urgent a message is, the most urgent first.
    NotificationPriority { Urgent = "urgent", High = "high", Normal = "normal", Low = "low" }
    /// What became of a message on one channel.
    DeliveryStatus { Pending = "pending", Sent = "sent", Failed = "failed", Dropped = "dropped" }
    /// Whose system a push device runs.
    DevicePlatform { Ios = "ios", Android = "android", Web = "web" }
    /// A day of the week.
    Day { Mon = "mon", Tue = "tue", Wed = "wed", Thu = "thu", Fri = "fri", Sat = "sat", Sun = "sun" }
    /// Which service an event comes from (DOMAIN 3.1); the part of the source after `roadcall.`.
    Source {
        Incident = "roadcall.incident", Vendor = "roadcall.vendor", Match = "roadcall.match",
        Tracking = "roadcall.tracking", Payment = "roadcall.payment", Telephony = "roadcall.telephony",
        Auth = "roadcall.auth", Kb = "roadcall.kb", Config = "roadcall.config", Ops = "roadcall.ops",
    }
}

impl Source {
    /// The service token of a subject: what stands after `roadcall.`.
    #[must_use]
    pub fn service(self) -> &'static str {
        self.as_str()
            .split_once('.')
            .map_or("", |(_, service)| service)
    }

    /// The source whose service token this is.
    #[must_use]
    pub fn of_service(service: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|source| source.service() == service)
    }
}

/// Who did something (DOMAIN 1.2), as text `driver:{id}`, `system:{role}` and so on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// A driver.
    Driver(Id),
    /// A vendor's account.
    Vendor(Id),
    /// A dispatcher.
    Dispatcher(Id),
    /// An administrator.
    Admin(Id),
    /// One of the roles, by itself.
    System(String),
    /// A phone call.
    Call(Id),
    /// An outside provider.
    Provider(String),
    /// A person at the machine's command line.
    Operator(String),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver(id) => write!(f, "driver:{id}"),
            Self::Vendor(id) => write!(f, "vendor:{id}"),
            Self::Dispatcher(id) => write!(f, "dispatcher:{id}"),
            Self::Admin(id) => write!(f, "admin:{id}"),
            Self::System(role) => write!(f, "system:{role}"),
            Self::Call(id) => write!(f, "call:{id}"),
            Self::Provider(name) => write!(f, "provider:{name}"),
            Self::Operator(name) => write!(f, "operator:{name}"),
        }
    }
}

impl FromStr for Actor {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let (kind, name) = text
            .split_once(':')
            .ok_or_else(|| TypeError::new("not of the form kind:name"))?;
        let word = || {
            let fits = (1..=64).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
            if fits {
                Ok(name.to_owned())
            } else {
                Err(TypeError::new(
                    "the name is not 1 to 64 of A-Z a-z 0-9 _ - .",
                ))
            }
        };
        match kind {
            "driver" => Id::parse(name).map(Self::Driver),
            "vendor" => Id::parse(name).map(Self::Vendor),
            "dispatcher" => Id::parse(name).map(Self::Dispatcher),
            "admin" => Id::parse(name).map(Self::Admin),
            "call" => Id::parse(name).map(Self::Call),
            "system" => word().map(Self::System),
            "provider" => word().map(Self::Provider),
            "operator" => word().map(Self::Operator),
            _ => Err(TypeError::new(
                "the kind is none of driver, vendor, dispatcher, admin, system, call, provider, operator",
            )),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <Cow<'de, str>>::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl JsonSchema for Actor {
    fn schema_name() -> Cow<'static, str> {
        "Actor".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^((driver|vendor|dispatcher|admin|call):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(system|provider|operator):[A-Za-z0-9_.-]{1,64})$" })
    }
}
