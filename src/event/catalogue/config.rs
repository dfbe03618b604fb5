//! `roadcall.config`: key configKey, producer config.

use serde_json::{Map, Value};

use super::events;
use crate::event::lists::*;
use crate::event::types::*;

events! {
    Source::Config, config_key = "configKey";

    #[doc = "new version of a key"]
    ConfigurationChanged ["match" "payment-approval"] {
        config_key: ConfigKey,
        config_version: Count1,
        value: Map<String, Value>,
        change_type: ConfigChange,
        #[serde(skip_serializing_if = "Option::is_none")] previous_version: Option<Count1>,
        #[serde(skip_serializing_if = "Option::is_none")] reason: Option<Text<200>>,
        updated_by: Actor,
        updated_at: Ts,
    }
}
