//! The raised alarms in metrics, written anew for each scrape: one that is cleared is gone. When the audit role does not answer
//! there is none of them, and that is no good news: `roadcall_alarms_measured_timestamp_seconds` is absent then, too.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use crate::node::inquiry::Alarms;

/// What the audit role said last.
#[derive(Debug, Clone, Default)]
pub(super) struct Raised(Arc<Mutex<Option<Alarms>>>);

impl Raised {
    /// Takes in what it said; nothing where it said nothing.
    pub(super) fn tell(&self, told: Option<Alarms>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

impl Collector for Raised {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = told.as_ref() else {
            return Ok(());
        };
        let help = "1 for each alarm that is raised";
        let mut metric =
            encoder.encode_descriptor("alarm_raised", help, None, MetricType::Gauge)?;
        for alarm in &told.items {
            let labels = [
                ("alarm", alarm.alarm_name.as_str()),
                ("alarm_site", alarm.site.as_str()),
                ("severity", alarm.severity.as_str()),
                ("subject", alarm.subject.as_str()),
            ];
            metric.encode_family(&labels)?.encode_gauge(&1)?;
        }
        let at = told.measured_at.map(|at| at.ms() as f64 / 1000.0);
        let gauges = [
            (
                "alarms_measured_timestamp_seconds",
                "When queues, letters and counts were measured for alarms",
                at,
            ),
            (
                "alarms_measure_period_seconds",
                "From one such measurement to the next",
                told.period_seconds.map(|period| period as f64),
            ),
            (
                "alarm_webhook_waiting",
                "Alarms that the webhook has not taken yet",
                Some(told.webhook_waiting as f64),
            ),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&value)?;
        }
        Ok(())
    }
}
