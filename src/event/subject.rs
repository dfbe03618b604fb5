//! The subject grammar (DESIGN 5): `roadcall.<site>.<service>.<DetailType>.<entity>`. Built and parsed only here.

use std::fmt;
use std::str::FromStr;

use super::lists::Source;
use super::types::{Key, Site, TypeError};

/// Where an event is published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Site where it is published.
    pub site: Site,
    /// Source; its service token stands in the subject.
    pub source: Source,
    /// `detail-type`.
    pub detail_type: String,
    /// Entity key.
    pub entity: Key,
}

impl Subject {
    /// It with `:entity` for the entity: one text for all events of a type.
    #[must_use]
    pub fn pattern(&self) -> String {
        let (site, service) = (&self.site, self.source.service());
        format!("roadcall.{site}.{service}.{}.:entity", self.detail_type)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "roadcall.{}.{}.{}.{}",
            self.site,
            self.source.service(),
            self.detail_type,
            self.entity
        )
    }
}

impl FromStr for Subject {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let mut tokens = text.split('.');
        let mut next = || {
            tokens.next().ok_or_else(|| {
                TypeError::new("not roadcall.<site>.<service>.<DetailType>.<entity>")
            })
        };
        if next()? != "roadcall" {
            return Err(TypeError::new("does not start with roadcall."));
        }
        let site =
            Site::new(next()?).map_err(|error| TypeError::new(format!("site token: {error}")))?;
        let service = next()?;
        let source = Source::of_service(service).ok_or_else(|| {
            TypeError::new(format!(
                "no service is named '{}'",
                service.chars().take(40).collect::<String>()
            ))
        })?;
        let detail_type = next()?;
        if !is_detail_type(detail_type) {
            return Err(TypeError::new(
                "detail-type token: not 1 to 64 letters and digits that start with a capital",
            ));
        }
        let entity =
            Key::new(next()?).map_err(|error| TypeError::new(format!("entity token: {error}")))?;
        if tokens.next().is_some() {
            return Err(TypeError::new("has more than five tokens"));
        }
        Ok(Self {
            site,
            source,
            detail_type: detail_type.to_owned(),
            entity,
        })
    }
}

/// Whether a text can be a detail-type: PascalCase (DOMAIN 3.1), one token.
pub(super) fn is_detail_type(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_reads_back_as_written() {
        let text = "roadcall.depot-a.incident.IncidentCreated.0192f3c1-0000-7000-8000-000000000001";
        let subject: Subject = text.parse().expect("valid");
        assert_eq!(subject.source, Source::Incident);
        assert_eq!(subject.to_string(), text);
    }

    #[test]
    fn wrong_subjects_are_refused_with_the_token_named() {
        for (text, says) in [
            ("roadcall.hub.incident.IncidentCreated", "not roadcall."),
            ("other.hub.incident.IncidentCreated.k", "does not start"),
            ("roadcall.HUB.incident.IncidentCreated.k", "site token"),
            ("roadcall.hub.billing.IncidentCreated.k", "no service"),
            (
                "roadcall.hub.incident.incident_created.k",
                "detail-type token",
            ),
            ("roadcall.hub.incident.IncidentCreated.a b", "entity token"),
            (
                "roadcall.hub.incident.IncidentCreated.k.more",
                "more than five",
            ),
        ] {
            let error = text.parse::<Subject>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
