//! The fraud score (DOMAIN 5.5): pure rules over what is known of a vendor and his bill.

use super::settings::FraudRules;
use crate::event::{Code, FraudStatus, Rate, Ts};

/// From here on an amount is high, cents.
const HIGH_AMOUNT_CENTS: u64 = 100_000;
/// A vendor is new for so long.
const NEW_FOR_MS: i64 = 30 * 86_400_000;
/// Or until he has completed so many jobs before this one.
const NEW_UNTIL_JOBS: u64 = 5;
/// So many payments in 24 h, this one included, are many.
const VELOCITY_PAYMENTS: u64 = 5;
/// With so many earlier payments their mean says something,
const MEAN_OF_PAYMENTS: u64 = 5;
/// and more than so many times the mean is unusual.
const UNUSUAL_TIMES: u128 = 3;
/// Work shorter than this,
const SHORT_WORK_MINUTES: f64 = 10.0;
/// for this amount or more, is short, cents.
const SHORT_WORK_CENTS: u64 = 30_000;
/// Reason of a payment that could not be scored.
pub const SCORING_FAILED: &str = "fraud_detection_error";

/// What the rules look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The bill, cents.
    pub amount_cents: u64,
    /// When the vendor registered; `None` for one nobody knows.
    pub registered_at: Option<Ts>,
    /// The time of scoring.
    pub now: Ts,
    /// Jobs that the vendor completed before this one.
    pub earlier_jobs: u64,
    /// His payments in the last 24 h, this one included.
    pub payments_in_a_day: u64,
    /// His payments before this one.
    pub earlier_payments: u64,
    /// And their sum, cents.
    pub earlier_cents: u64,
    /// How long the work took, where known.
    pub work_minutes: Option<f64>,
}

/// What the rules come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// 0 to 1, four decimals.
    pub score: Rate,
    /// Its band.
    pub status: FraudStatus,
    /// The rules that hold, by name.
    pub reasons: Vec<Code>,
}

impl Score {
    /// The score where scoring failed: flagged, for a person to look at.
    #[must_use]
    pub fn failed() -> Self {
        Self {
            score: rate(10_000),
            status: FraudStatus::Flagged,
            reasons: vec![word(SCORING_FAILED)],
        }
    }

    /// Whether a person must review it before it can be approved.
    #[must_use]
    pub fn flagged(&self) -> bool {
        self.status == FraudStatus::Flagged
    }
}

fn word(text: &'static str) -> Code {
    Code::new(text).expect("a rule's name is a code")
}

fn rate(ten_thousandths: u32) -> Rate {
    Rate::new(f64::from(ten_thousandths.min(10_000)) / 10_000.0).expect("at most 1")
}

/// Scores a bill: 1 − Π(1 − weight of each rule that holds), rounded half up to 4 decimals.
///
/// # Errors
/// Rules that can't be used: a weight that is no number from 0 to 1, bands that do not rise.
pub fn score(facts: &Facts, rules: &FraudRules) -> Result<Score, String> {
    let (weights, bands) = (&rules.weights, &rules.bands);
    let age_ms = facts.registered_at.map(|at| facts.now.ms() - at.ms());
    let unusual = facts.earlier_payments >= MEAN_OF_PAYMENTS
        && u128::from(facts.amount_cents) * u128::from(facts.earlier_payments)
            > UNUSUAL_TIMES * u128::from(facts.earlier_cents);
    let held = [
        (
            "high_amount",
            weights.high_amount,
            facts.amount_cents >= HIGH_AMOUNT_CENTS,
        ),
        (
            "new_vendor",
            weights.new_vendor,
            age_ms.is_none_or(|age| age < NEW_FOR_MS) || facts.earlier_jobs < NEW_UNTIL_JOBS,
        ),
        (
            "high_velocity",
            weights.high_velocity,
            facts.payments_in_a_day >= VELOCITY_PAYMENTS,
        ),
        ("unusual_amount", weights.unusual_amount, unusual),
        (
            "short_work",
            weights.short_work,
            facts
                .work_minutes
                .is_some_and(|minutes| minutes < SHORT_WORK_MINUTES)
                && facts.amount_cents >= SHORT_WORK_CENTS,
        ),
    ];
    if let Some((name, ..)) = held.iter().find(|(_, w, _)| !(0.0..=1.0).contains(w)) {
        return Err(format!("the weight of {name} is not from 0 to 1"));
    }
    let rising = 0.0 < bands.medium && bands.medium < bands.high && bands.high < bands.flagged;
    if !(rising && bands.flagged < 1.0) {
        return Err("the bands do not rise between 0 and 1".to_owned());
    }
    let held: Vec<_> = held.into_iter().filter(|(_, _, holds)| *holds).collect();
    let clean: f64 = held.iter().map(|(_, weight, _)| 1.0 - weight).product();
    // Half up as the decimals say: 0.00005 is a little less in binary.
    let ten_thousandths = ((1.0 - clean) * 10_000.0 + 0.5 + 1e-7).floor() as u32;
    let score = rate(ten_thousandths);
    let status = match score.get() {
        low if low < bands.medium => FraudStatus::LowRisk,
        medium if medium < bands.high => FraudStatus::MediumRisk,
        high if high < bands.flagged => FraudStatus::HighRisk,
        _ => FraudStatus::Flagged,
    };
    Ok(Score {
        score,
        status,
        reasons: held.into_iter().map(|(name, ..)| word(name)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    /// A vendor of old with many jobs and a small bill.
    fn sound() -> Facts {
        Facts {
            amount_cents: 20_000,
            registered_at: Some(Ts::from_ms(0)),
            now: Ts::from_ms(40 * DAY_MS),
            earlier_jobs: 5,
            payments_in_a_day: 1,
            earlier_payments: 0,
            earlier_cents: 0,
            work_minutes: Some(60.0),
        }
    }

    fn scored(facts: &Facts) -> (f64, FraudStatus, Vec<String>) {
        let score = score(facts, &FraudRules::default()).expect("scored");
        let reasons = score.reasons.iter().map(ToString::to_string).collect();
        (score.score.get(), score.status, reasons)
    }

    #[test]
    fn s12_rules_multiply_and_round() {
        let facts = Facts {
            amount_cents: 500_000,
            registered_at: Some(Ts::from_ms(37 * DAY_MS)),
            ..sound()
        };
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            scored(&facts),
            (
                0.725,
                FraudStatus::Flagged,
                names(&["high_amount", "new_vendor"])
            )
        );
        let fast = Facts {
            payments_in_a_day: 5,
            ..sound()
        };
        let rich = Facts {
            amount_cents: 100_000,
            ..fast.clone()
        };
        assert_eq!(scored(&rich).0, 0.7);
        assert_eq!(scored(&rich).1, FraudStatus::Flagged);
        let new = Facts {
            registered_at: None,
            ..fast.clone()
        };
        assert_eq!(
            (scored(&new).0, scored(&new).1),
            (0.67, FraudStatus::HighRisk)
        );
        assert_eq!(
            (scored(&fast).0, scored(&fast).1),
            (0.4, FraudStatus::MediumRisk)
        );
        assert_eq!(scored(&sound()), (0.0, FraudStatus::LowRisk, names(&[])));
    }

    #[test]
    fn every_rule_has_its_edge() {
        let holds = |facts: Facts, name: &str| scored(&facts).2.contains(&name.to_owned());
        let with = |change: &dyn Fn(&mut Facts)| {
            let mut facts = sound();
            change(&mut facts);
            facts
        };
        for (name, inside, outside) in [
            (
                "high_amount",
                with(&|f| f.amount_cents = 100_000),
                with(&|f| f.amount_cents = 99_999),
            ),
            (
                "new_vendor",
                with(&|f| f.registered_at = Some(Ts::from_ms(10 * DAY_MS + 1))),
                with(&|f| f.registered_at = Some(Ts::from_ms(10 * DAY_MS))),
            ),
            (
                "new_vendor",
                with(&|f| f.earlier_jobs = 4),
                with(&|f| f.earlier_jobs = 5),
            ),
            (
                "high_velocity",
                with(&|f| f.payments_in_a_day = 5),
                with(&|f| f.payments_in_a_day = 4),
            ),
            (
                "unusual_amount",
                with(&|f| {
                    (f.amount_cents, f.earlier_payments, f.earlier_cents) = (3_001, 5, 5_000)
                }),
                with(&|f| {
                    (f.amount_cents, f.earlier_payments, f.earlier_cents) = (3_000, 5, 5_000)
                }),
            ),
            (
                "unusual_amount",
                with(&|f| {
                    (f.amount_cents, f.earlier_payments, f.earlier_cents) = (3_001, 5, 5_000)
                }),
                with(&|f| {
                    (f.amount_cents, f.earlier_payments, f.earlier_cents) = (3_001, 4, 4_000)
                }),
            ),
            (
                "short_work",
                with(&|f| (f.amount_cents, f.work_minutes) = (30_000, Some(9.99))),
                with(&|f| (f.amount_cents, f.work_minutes) = (30_000, Some(10.0))),
            ),
            (
                "short_work",
                with(&|f| (f.amount_cents, f.work_minutes) = (30_000, Some(9.99))),
                with(&|f| (f.amount_cents, f.work_minutes) = (29_999, Some(9.99))),
            ),
        ] {
            assert!(holds(inside, name), "{name}");
            assert!(!holds(outside, name), "{name}");
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_an_error_and_not_a_score() {
        let mut rules = FraudRules::default();
        rules.weights.short_work = f64::NAN;
        assert!(score(&sound(), &rules).is_err());
        let mut rules = FraudRules::default();
        rules.bands.high = 0.9;
        assert!(score(&sound(), &rules).is_err());
        let failed = Score::failed();
        assert_eq!((failed.score.get(), failed.flagged()), (1.0, true));
        assert_eq!(failed.reasons, [word("fraud_detection_error")]);
    }
}
