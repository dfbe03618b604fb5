//! How long events take: from the archive, and from when they were made, to their committed outcome.

use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;

/// Longest time told apart, milliseconds: an hour. What takes longer waited for something, not for us.
const LONGEST_MS: u64 = 3_600_000;

/// Times from the broker's receipt of an event to the commit of its outcome. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Latency(Arc<Mutex<Histogram<u64>>>);

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_MS, 2).expect(
            "the bounds are constants that the crate allows: low 1, high over 2, 0 to 5 digits",
        );
        Self(Arc::new(Mutex::new(histogram)))
    }
}

impl Latency {
    /// Counts one event that took `ms` milliseconds.
    pub fn record(&self, ms: u64) {
        self.locked().saturating_record(ms);
    }

    /// The time within which `share` (0 to 1) of the events were handled, in milliseconds; 0 when there were none.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> u64 {
        self.locked().value_at_quantile(share)
    }

    /// Adds what `other` counted.
    pub fn add(&self, other: &Self) {
        let other = other.locked().clone();
        // Both have the same bounds, so that every value fits.
        let _ = self.locked().add(other);
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_what_was_counted_in_two_places() {
        let (one, two) = (Latency::default(), Latency::default());
        assert_eq!(one.quantile_ms(0.99), 0);
        (1..=50).for_each(|ms| one.record(ms));
        (51..=100).for_each(|ms| two.record(ms));
        one.add(&two);
        assert_eq!((one.quantile_ms(0.5), one.quantile_ms(0.99)), (50, 99));
    }
}
