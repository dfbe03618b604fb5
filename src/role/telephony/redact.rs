//! Finding and masking what speaks of a person in a transcript (DOMAIN 5.8, redaction).
//!
//! Positions count characters. Rather too much is masked than too little: a number of ten digits is taken for a phone
//! number whoever's it is. Numbers that are spoken as words are not found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was found, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// Of which kind it is.
    #[serde(rename = "type")]
    pub kind: EntityKind,
    /// The first character.
    pub begin: usize,
    /// The character behind the last one.
    pub end: usize,
}

/// The kinds of DOMAIN 5.8.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum EntityKind {
    Phone,
    Email,
    Card,
    Ssn,
    Name,
}

impl EntityKind {
    /// What stands in the text instead.
    #[must_use]
    pub fn mask(self) -> &'static str {
        match self {
            Self::Phone => "[PHONE]",
            Self::Email => "[EMAIL]",
            Self::Card => "[CARD]",
            Self::Ssn => "[SSN]",
            Self::Name => "[NAME]",
        }
    }

    /// The word for it in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Email => "email",
            Self::Card => "card",
            Self::Ssn => "ssn",
            Self::Name => "name",
        }
    }
}

/// Masks `text`; `name` is that of the caller's profile. Gives the masked text and what was masked, in order.
#[must_use]
pub fn redact(text: &str, name: Option<&str>) -> (String, Vec<Entity>) {
    let mut chars: Vec<char> = text.chars().collect();
    let mut found = numbers(&chars);
    found.extend(emails(&chars));
    if let Some(name) = name {
        found.extend(names(&chars, name));
    }
    let entities = longest(found);
    for entity in entities.iter().rev() {
        chars.splice(entity.begin..entity.end, entity.kind.mask().chars());
    }
    (chars.into_iter().collect(), entities)
}

/// Of those that overlap the longest stays; of two as long the earlier, then the earlier kind.
fn longest(mut found: Vec<Entity>) -> Vec<Entity> {
    found.sort_by_key(|entity| {
        let length = entity.end - entity.begin;
        (usize::MAX - length, entity.begin, entity.kind)
    });
    let mut kept: Vec<Entity> = Vec::new();
    for entity in found {
        let free = |other: &Entity| entity.end <= other.begin || other.end <= entity.begin;
        if kept.iter().all(free) {
            kept.push(entity);
        }
    }
    kept.sort_by_key(|entity| entity.begin);
    kept
}

/// Phone, card and social security numbers: windows over groups of digits that belong together.
fn numbers(chars: &[char]) -> Vec<Entity> {
    let groups = groups(chars);
    let mut found = Vec::new();
    for (first, group) in groups.iter().enumerate() {
        let mut digits = String::new();
        let mut between: Vec<String> = Vec::new();
        for (n, next) in groups[first..].iter().enumerate() {
            if n > 0 {
                let gap: String = chars[groups[first + n - 1].1..next.0].iter().collect();
                if !joins(&gap) {
                    break;
                }
                between.push(gap);
            }
            digits.extend(&chars[next.0..next.1]);
            if digits.len() > 19 {
                break;
            }
            let plus = group.0 > 0 && chars[group.0 - 1] == '+';
            let lengths = groups[first..=first + n]
                .iter()
                .map(|group| group.1 - group.0);
            let lengths: Vec<usize> = lengths.collect();
            if let Some(kind) = kind_of(&digits, &lengths, &between, plus) {
                let begin = group.0 - usize::from(plus && kind == EntityKind::Phone);
                let end = next.1;
                found.push(Entity { kind, begin, end });
            }
        }
    }
    found
}

/// The runs of digits, as begin and end.
fn groups(chars: &[char]) -> Vec<(usize, usize)> {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for (at, _) in chars.iter().enumerate().filter(|(_, c)| c.is_ascii_digit()) {
        match groups.last_mut() {
            Some(last) if last.1 == at => last.1 = at + 1,
            _ => groups.push((at, at + 1)),
        }
    }
    groups
}

/// Whether digits around `gap` may be of one number.
fn joins(gap: &str) -> bool {
    (1..=3).contains(&gap.len()) && gap.chars().all(|c| " .-()/\u{a0}".contains(c))
}

fn kind_of(digits: &str, lengths: &[usize], between: &[String], plus: bool) -> Option<EntityKind> {
    let all = |allowed: &[&str]| between.iter().all(|gap| allowed.contains(&gap.as_str()));
    if lengths == [3, 2, 4] && all(&["-"]) {
        let area = &digits[..3];
        let real = area != "000" && area != "666" && !area.starts_with('9');
        return real.then_some(EntityKind::Ssn);
    }
    if (13..=19).contains(&digits.len()) && all(&[" ", "-"]) && luhn(digits) {
        return Some(EntityKind::Card);
    }
    let phone = match digits.len() {
        7 => lengths == [3, 4] && all(&["-", "."]),
        10 => true,
        11 if digits.starts_with(['0', '1']) => true,
        8..=15 if plus => true,
        11..=18 => digits.starts_with("00") || digits.starts_with("011"),
        _ => false,
    };
    phone.then_some(EntityKind::Phone)
}

fn luhn(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(n, byte)| {
            let digit = u32::from(byte - b'0') * (1 + n as u32 % 2);
            digit / 10 + digit % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

fn emails(chars: &[char]) -> Vec<Entity> {
    let local = |c: char| c.is_alphanumeric() || "._%+-'".contains(c);
    let domain = |c: char| c.is_alphanumeric() || ".-".contains(c);
    let mut found = Vec::new();
    for (at, _) in chars.iter().enumerate().filter(|(_, c)| **c == '@') {
        let before = chars[..at].iter().rev().take_while(|c| local(**c)).count();
        let after = chars[at + 1..].iter().take_while(|c| domain(**c)).count();
        let mut end = at + 1 + after;
        while end > at + 1 && !chars[end - 1].is_alphanumeric() {
            end -= 1;
        }
        let dotted = chars[at + 1..end].contains(&'.');
        if before > 0 && dotted {
            let begin = at - before;
            let kind = EntityKind::Email;
            found.push(Entity { kind, begin, end });
        }
    }
    found
}

/// The parts of `name` of two letters or more, as whole words in any case.
fn names(chars: &[char], name: &str) -> Vec<Entity> {
    let fold = |c: &char| c.to_lowercase().next().unwrap_or(*c);
    let folded: Vec<char> = chars.iter().map(fold).collect();
    let outer = name.split_whitespace();
    let parts = outer.flat_map(|part| {
        let inner = part.split(|c: char| !c.is_alphanumeric());
        std::iter::once(part.trim_matches(|c: char| !c.is_alphanumeric())).chain(inner)
    });
    let mut found = Vec::new();
    for part in parts.filter(|part| part.chars().filter(|c| c.is_alphabetic()).count() >= 2) {
        let word: Vec<char> = part.chars().map(|c| fold(&c)).collect();
        for (begin, window) in folded.windows(word.len()).enumerate() {
            let end = begin + word.len();
            let edge = |c: Option<&char>| c.is_none_or(|c| !c.is_alphanumeric());
            let alone = edge(begin.checked_sub(1).map(|n| &folded[n])) && edge(folded.get(end));
            if window == word && alone {
                let kind = EntityKind::Name;
                found.push(Entity { kind, begin, end });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(text: &str) -> String {
        redact(text, Some("Maria-Jo O'Neil Li X")).0
    }

    #[test]
    fn each_kind_has_its_mask() {
        for (text, wanted) in [
            ("call +1 (555) 123-4567 now", "call [PHONE] now"),
            (
                "5551234567, 555-1234, +442079460958",
                "[PHONE], [PHONE], [PHONE]",
            ),
            ("write a.b+c@mail.example.org.", "write [EMAIL]."),
            ("card 4111 1111 1111 1111!", "card [CARD]!"),
            ("card 4111 1111 1111 1112!", "card 4111 1111 1111 1112!"),
            ("ssn 123-45-6789", "ssn [SSN]"),
            // No SSN has these areas. Apart: two side by side may make the digits of a card.
            ("no 000-12-3456", "no 000-12-3456"),
            ("no 666-12-3456", "no 666-12-3456"),
            ("no 912-12-3456", "no 912-12-3456"),
            (
                "I am MARIA oneil, O'NEIL, maria-jo",
                "I am [NAME] oneil, [NAME], [NAME]",
            ),
            ("li lives, x marks, marias", "[NAME] lives, x marks, marias"),
            (
                "mile 42 on I-80, 18 wheels, 2026",
                "mile 42 on I-80, 18 wheels, 2026",
            ),
            ("maria@example.com", "[EMAIL]"),
        ] {
            assert_eq!(masked(text), wanted, "{text}");
        }
    }

    #[test]
    fn positions_count_characters_of_the_raw_text() {
        let text = "é 5551234567 ok maria";
        let (_, found) = redact(text, Some("Maria"));
        let values: Vec<String> = found
            .iter()
            .map(|one| {
                text.chars()
                    .skip(one.begin)
                    .take(one.end - one.begin)
                    .collect()
            })
            .collect();
        assert_eq!(values, ["5551234567", "maria"]);
        assert_eq!(found[0].kind.as_str(), "phone");
    }

    proptest! {
        /// Nothing of what was planted is left, wherever it stands and however often.
        #[test]
        fn nothing_of_a_person_is_left(
            words in proptest::collection::vec("[a-z]{1,8}", 1..12),
            planted in proptest::collection::vec((0_usize..12, 0_usize..6), 1..6),
            middle in "[2-9][0-9]{2}", last in "[0-9]{4}",
        ) {
            let secrets = [
                format!("+1{middle}{middle}{last}"), format!("({middle}) {middle}-{last}"),
                format!("joe{last}@mail.example"), "5500 0000 0000 0004".to_owned(),
                format!("123-45-{last}"), "Zebulon".to_owned(),
            ];
            let mut text = words;
            for (at, which) in &planted {
                let at = at % (text.len() + 1);
                text.insert(at, secrets[*which].clone());
            }
            // A comma between, or neighbours that are numbers could be read as one longer number.
            let (masked, _) = redact(&text.join(", "), Some("Zebulon Q"));
            for (_, which) in &planted {
                prop_assert!(!masked.contains(&secrets[*which]), "{masked}");
            }
            prop_assert!(!masked.contains(&last), "{masked}");
        }
    }
}
