//! `Roadcall-Seq`: who made an event, and which of his events it is (DESIGN 8).

/// What the header says: contiguous numbers for each role, site and life of its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// The role.
    pub role: String,
    /// Which life of its database: a restored one begins a new one.
    pub epoch: String,
    /// From 1 on.
    pub n: u64,
}

impl Producer {
    /// The header's name.
    pub const HEADER: &'static str = "Roadcall-Seq";

    /// Reads `<role>:<store epoch>:<n>`; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, n) = text.rsplit_once(':')?;
        let (role, epoch) = rest.split_once(':')?;
        let n = n.parse().ok().filter(|n| *n > 0)?;
        let named = !role.is_empty() && !epoch.is_empty();
        named.then(|| Self {
            role: role.to_owned(),
            epoch: epoch.to_owned(),
            n,
        })
    }

    /// The same from an event's headers.
    #[must_use]
    pub fn of(headers: &[(String, String)]) -> Option<Self> {
        let header = headers.iter().find(|(name, _)| name == Self::HEADER);
        header.and_then(|(_, text)| Self::parse(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_form_is_read() {
        let read = Producer::parse("incident:0192f3c1:7").expect("well formed");
        assert_eq!(
            (read.role.as_str(), read.epoch.as_str(), read.n),
            ("incident", "0192f3c1", 7)
        );
        for wrong in [
            "",
            "incident",
            "incident:7",
            "incident:e:0",
            "incident:e:-1",
            "incident:e:x",
            ":e:1",
            "incident::1",
        ] {
            assert_eq!(Producer::parse(wrong), None, "{wrong}");
        }
    }
}
