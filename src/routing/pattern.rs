//! What a rule may say of source and detail-type: a text, a prefix, a wildcard, or a list of them. The rest of the
//! EventBridge pattern language comes with a later issue and is refused until then.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::event::Source;

/// A rule's pattern. An absent field matches everything; a list matches what any of its values matches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Of the source, `roadcall.incident`.
    #[serde(default)]
    pub source: Vec<Matcher>,
    /// Of the detail-type.
    #[serde(default, rename = "detail-type")]
    pub detail_type: Vec<Matcher>,
}

/// One value of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "a pattern value is a text, { prefix = \"…\" } or { wildcard = \"…\" }"
)]
pub enum Matcher {
    /// This text.
    Exact(String),
    /// Every text that starts so.
    Prefix(Prefix),
    /// Every text of this form, where `*` stands for any run of characters.
    Wildcard(Wildcard),
}

/// See [`Matcher::Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    /// How the text starts.
    pub prefix: String,
}

/// See [`Matcher::Wildcard`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wildcard {
    /// The form.
    pub wildcard: String,
}

impl Matcher {
    /// Whether `text` matches one of `matchers`, or there are none.
    #[must_use]
    pub fn any(matchers: &[Self], text: &str) -> bool {
        matchers.is_empty() || matchers.iter().any(|matcher| matcher.matches(text))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Prefix(prefix) => text.starts_with(&prefix.prefix),
            Self::Wildcard(form) => wildcard_matches(&form.wildcard, text),
        }
    }
}

/// Greedy from the left: each literal part is taken at its first place, the last one must end the text.
fn wildcard_matches(form: &str, text: &str) -> bool {
    let mut parts = form.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or("")) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl Pattern {
    /// Subject filters that let everything through that the pattern wants, and as little else as a NATS filter can say:
    /// its wildcard is a whole token, so a prefix on the detail-type becomes any detail-type of the service.
    pub(super) fn filters(&self) -> BTreeSet<String> {
        let services: Vec<&str> = Source::ALL
            .iter()
            .filter(|source| Matcher::any(&self.source, source.as_str()))
            .map(|source| source.service())
            .collect();
        if services.len() == Source::ALL.len() && self.detail_type.is_empty() {
            return BTreeSet::from(["roadcall.>".to_owned()]);
        }
        let exact: Option<Vec<&str>> = self
            .detail_type
            .iter()
            .map(|matcher| match matcher {
                Matcher::Exact(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let types = exact
            .filter(|types| !types.is_empty())
            .unwrap_or_else(|| vec!["*"]);
        let filter =
            |service: &&str, detail_type: &&str| format!("roadcall.*.{service}.{detail_type}.*");
        services
            .iter()
            .flat_map(|service| {
                types
                    .iter()
                    .map(move |detail_type| filter(service, detail_type))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_runs_of_characters() {
        for (form, text, wanted) in [
            ("roadcall.*", "roadcall.match", true),
            ("Offer*ed", "OfferAccepted", true),
            ("Offer*ed", "OfferAccept", false),
            ("*", "", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab", "abc", false),
        ] {
            assert_eq!(wildcard_matches(form, text), wanted, "{form} {text}");
        }
    }
}
