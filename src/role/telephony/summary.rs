//! The summary of a redacted transcript by rules (DOMAIN 5.8, summary).

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{IncidentType, Urgency};

/// Sentences in a summary.
const SENTENCES: usize = 3;
/// Key phrases at the most.
const PHRASES: usize = 10;

const CRITICAL: &[&str] = &[
    "fire",
    "smoke",
    "smoking",
    "injured",
    "injury",
    "bleeding",
    "collision",
    "collided",
    "blocking",
    "blocked",
];
const HIGH: &[&str] = &[
    "highway",
    "shoulder",
    "brakes",
    "brake",
    "leak",
    "leaking",
    "overheating",
    "overheated",
];
const TIRE: &[&str] = &["tire", "tires", "flat", "blowout", "puncture", "wheel"];
const ENGINE: &[&str] = &[
    "engine",
    "overheating",
    "overheated",
    "battery",
    "radiator",
    "stalled",
    "alternator",
];
const TOW: &[&str] = &["tow", "towed", "towing", "winch", "ditch"];
const POSITIVE: &[&str] = &[
    "thanks",
    "thank",
    "great",
    "good",
    "perfect",
    "appreciate",
    "safe",
];
const NEGATIVE: &[&str] = &[
    "angry",
    "bad",
    "terrible",
    "scared",
    "worried",
    "upset",
    "stuck",
    "broken",
    "dangerous",
    "hurt",
];
const STOP: &[&str] = &[
    "the", "and", "for", "are", "was", "were", "with", "that", "this", "have", "has", "had", "you",
    "your", "but", "not", "from", "they", "she", "her", "his", "him", "its", "our", "can", "will",
    "just", "there", "here", "what", "when", "where", "who", "how", "yes", "okay", "then", "than",
    "been", "about", "into", "phone", "email", "card", "ssn", "name",
];

/// How a call sounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum Sentiment {
    Positive,
    Neutral,
    Negative,
}

/// What a transcript comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Digest {
    /// Its best sentences, in their order.
    pub summary: String,
    /// What broke, if a word says so.
    pub incident_type: Option<IncidentType>,
    /// How urgent it sounds.
    pub urgency: Urgency,
    /// How the caller sounds.
    pub sentiment: Sentiment,
    /// Its most frequent words, at most ten.
    pub key_phrases: Vec<String>,
}

/// Reads a redacted text.
#[must_use]
pub fn digest(text: &str) -> Digest {
    let words = words(text);
    let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let incident_type = incident_type(&words);
    let urgency = if any(CRITICAL) {
        Urgency::Critical
    } else if any(HIGH) {
        Urgency::High
    } else if incident_type.is_some() {
        Urgency::Medium
    } else {
        Urgency::Low
    };
    let count = |list: &[&str]| {
        words
            .iter()
            .filter(|word| list.contains(&word.as_str()))
            .count()
    };
    let sentiment = match count(POSITIVE).cmp(&count(NEGATIVE)) {
        std::cmp::Ordering::Greater => Sentiment::Positive,
        std::cmp::Ordering::Equal => Sentiment::Neutral,
        std::cmp::Ordering::Less => Sentiment::Negative,
    };
    let weights = weights(&words);
    let mut phrases: Vec<(&String, &usize)> = weights.iter().collect();
    phrases.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let key_phrases = phrases
        .into_iter()
        .take(PHRASES)
        .map(|(word, _)| word.clone());
    Digest {
        summary: best_sentences(text, &weights),
        incident_type,
        urgency,
        sentiment,
        key_phrases: key_phrases.collect(),
    }
}

/// What is to be done, by rule.
#[must_use]
pub fn actions(
    incident_type: Option<IncidentType>,
    located: bool,
    call_back: bool,
    urgency: Urgency,
) -> Vec<String> {
    let mut actions = Vec::new();
    if urgency == Urgency::Critical {
        actions.push("alert emergency services".to_owned());
    }
    actions.extend(incident_type.map(|kind| format!("dispatch {kind}")));
    if !located {
        actions.push("confirm location".to_owned());
    }
    if call_back {
        actions.push("call back".to_owned());
    }
    actions
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// The type with the most words for it; none of two that are level.
fn incident_type(words: &[String]) -> Option<IncidentType> {
    let count = |list: &[&str]| {
        words
            .iter()
            .filter(|word| list.contains(&word.as_str()))
            .count()
    };
    let counts = [
        (count(TIRE), IncidentType::Tire),
        (count(ENGINE), IncidentType::Engine),
        (count(TOW), IncidentType::Tow),
    ];
    let best = counts.iter().map(|(count, _)| *count).max()?;
    let mut leaders = counts
        .iter()
        .filter(|(count, _)| *count == best && best > 0);
    let leader = leaders.next()?;
    leaders.next().is_none().then_some(leader.1)
}

/// How often each word that means something stands in the text.
fn weights(words: &[String]) -> BTreeMap<String, usize> {
    let mut weights = BTreeMap::new();
    let means = |word: &&String| word.chars().count() >= 3 && !STOP.contains(&word.as_str());
    for word in words.iter().filter(means) {
        *weights.entry(word.clone()).or_default() += 1;
    }
    weights
}

fn best_sentences(text: &str, weights: &BTreeMap<String, usize>) -> String {
    let sentences: Vec<&str> = text
        .split_inclusive(['.', '!', '?', '\n'])
        .map(str::trim)
        .filter(|sentence| sentence.chars().any(char::is_alphanumeric))
        .collect();
    let mut scored: Vec<(usize, f64)> = sentences
        .iter()
        .enumerate()
        .map(|(n, sentence)| {
            let words = words(sentence);
            let distinct: BTreeSet<&String> = words.iter().collect();
            let sum: usize = distinct.iter().filter_map(|word| weights.get(*word)).sum();
            // Long sentences gather weight by length alone.
            (n, sum as f64 / (words.len().max(1) as f64).sqrt())
        })
        .collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut chosen: Vec<usize> = scored.iter().take(SENTENCES).map(|(n, _)| *n).collect();
    chosen.sort_unstable();
    let chosen: Vec<&str> = chosen.into_iter().map(|n| sentences[n]).collect();
    chosen.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgency_goes_by_the_gravest_word() {
        for (text, wanted) in [
            ("There is smoke and a leak", Urgency::Critical),
            ("On the shoulder with a flat tire", Urgency::High),
            ("A flat tire", Urgency::Medium),
            ("Hello, is anybody there", Urgency::Low),
            ("The firewood is dry", Urgency::Low),
        ] {
            assert_eq!(digest(text).urgency, wanted, "{text}");
        }
    }

    #[test]
    fn three_best_sentences_stay_in_their_order() {
        let text = "Hi. The tire blew on the trailer. Um. The trailer tire is flat. Well. The trailer needs a tire now. Bye.";
        let digest = digest(text);
        let wanted =
            "The tire blew on the trailer. The trailer tire is flat. The trailer needs a tire now.";
        assert_eq!(digest.summary, wanted);
        assert_eq!(digest.incident_type, Some(IncidentType::Tire));
        assert_eq!(digest.key_phrases[..2], ["tire", "trailer"]);
        assert!(digest.key_phrases.len() <= 10);
        assert_eq!(digest.sentiment, Sentiment::Neutral);
    }

    #[test]
    fn actions_follow_the_rules() {
        let all = actions(Some(IncidentType::Tow), false, true, Urgency::Critical);
        let wanted = [
            "alert emergency services",
            "dispatch tow",
            "confirm location",
            "call back",
        ];
        assert_eq!(all, wanted);
        assert!(actions(None, true, false, Urgency::Low).is_empty());
    }
}
