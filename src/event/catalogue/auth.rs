//! `roadcall.auth`: key userId, producer auth.

use super::events;
use crate::event::lists::*;
use crate::event::personal::Personal;
use crate::event::types::*;

fn english() -> Text<8> {
    Text::lossy("en")
}

events! {
    Source::Auth, user_id = "userId";

    #[doc = "account became active"]
    UserRegistered ["notifications" "telephony"] {
        user_id: Id,
        phone: Personal<E164>,
        role: UserRole,
        name: Personal<Text<120>>,
        #[serde(skip_serializing_if = "Option::is_none")] email: Option<Personal<Email>>,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] payment_type: Option<PaymentType>,
        #[serde(default = "english")] language: Text<8>,
        timezone: Tz,
        status: UserStatus,
        profile_version: Count1,
        registered_at: Ts,
    }

    #[doc = "OTP was right"]
    UserVerified [] {
        user_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] phone: Option<Personal<E164>>,
        verified_at: Ts,
    }

    #[doc = "account changed"]
    UserUpdated ["notifications" "telephony"] {
        user_id: Id,
        phone: Personal<E164>,
        role: UserRole,
        name: Personal<Text<120>>,
        #[serde(skip_serializing_if = "Option::is_none")] email: Option<Personal<Email>>,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] payment_type: Option<PaymentType>,
        #[serde(default = "english")] language: Text<8>,
        timezone: Tz,
        status: UserStatus,
        profile_version: Count1,
        registered_at: Ts,
        changed_fields: List<Text<64>, 1, 64>,
    }

    #[doc = "person erased"]
    UserDataDeleted ["incident" "vendor" "match" "tracking" "payment-approval" "notifications" "telephony"] {
        user_id: Id,
        reason: ErasureReason,
        requested_by: Actor,
        deleted_at: Ts,
    }
}
