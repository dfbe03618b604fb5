//! Subject filters as NATS has them: tokens between dots, `*` for one token, `>` for the rest.

use std::collections::BTreeSet;

/// Whether `filter` lets `subject` through.
#[must_use]
pub fn matches(filter: &str, subject: &str) -> bool {
    contains(filter, subject)
}

/// Whether everything that `narrow` lets through also passes `wide`.
#[must_use]
pub fn contains(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wide), Some(narrow)) if wide == narrow => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Drops every filter that another one contains. Filters made from rules differ only in service and detail-type tokens,
/// each a word or `*`, so two of them overlap only where one contains the other, or where `*` stands crosswise, which
/// rules cannot make: the service is always a word.
#[must_use]
pub fn without_overlaps(filters: BTreeSet<String>) -> Vec<String> {
    let all: Vec<String> = filters.into_iter().collect();
    all.iter()
        .filter(|filter| {
            !all.iter()
                .any(|other| other != *filter && contains(other, filter))
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_contain_what_they_let_through() {
        assert!(matches(
            "roadcall.*.match.*.*",
            "roadcall.hub.match.OfferCreated.k"
        ));
        assert!(matches("roadcall.>", "roadcall.hub.match.OfferCreated.k"));
        assert!(!matches(
            "roadcall.*.match.*.*",
            "roadcall.hub.vendor.VendorUpdated.k"
        ));
        assert!(!matches("roadcall.*", "roadcall.hub.match"));
        assert!(!contains("roadcall.*", "roadcall.>"));
    }

    #[test]
    fn a_contained_filter_is_dropped() {
        let filters = [
            "roadcall.*.match.*.*",
            "roadcall.*.match.OfferCreated.*",
            "roadcall.*.vendor.VendorUpdated.*",
        ];
        let kept = without_overlaps(filters.iter().map(|f| (*f).to_owned()).collect());
        assert_eq!(
            kept,
            ["roadcall.*.match.*.*", "roadcall.*.vendor.VendorUpdated.*"]
        );
    }
}
