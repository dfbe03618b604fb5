//! Where in a trace something happens: W3C trace context, and how an incident's trace is found (DESIGN 5).
//!
//! An incident's trace has the incident's own id, so that every command, timer, site and replay finds it without asking
//! anybody: one incident is one trace. Ids of spans are derived from ids of events, so that a re-run writes the same bytes.

use std::fmt;

use super::types::Id;

/// The bits of a trace id that are drawn by chance (W3C trace context, level 2).
const CHANCE: u64 = (1 << 56) - 1;

/// A span of a trace, as `traceparent` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Trace id.
    pub trace: u128,
    /// Span id, never 0.
    pub span: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent` header; `None` for what is none. Versions after 00 may say more behind it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |part: &str, length: usize| {
            part.len() == length
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let sound = plain(version, 2) && plain(trace, 32) && plain(span, 16) && plain(flags, 2);
        if !sound || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let found = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (found.trace != 0 && found.span != 0).then_some(found)
    }

    /// The same from an event's headers.
    #[must_use]
    pub fn of(headers: &[(String, String)]) -> Option<Self> {
        let header = headers.iter().find(|(name, _)| name == "traceparent");
        header.and_then(|(_, text)| Self::parse(text))
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn at(self, span: u64) -> Self {
        Self { span, ..self }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span, flags) = (self.trace, self.span, u8::from(self.sampled));
        write!(f, "00-{trace:032x}-{span:016x}-{flags:02x}")
    }
}

/// The id of the trace that belongs to an incident, or to whatever begins with `id`.
#[must_use]
pub fn trace_of(id: Id) -> u128 {
    id.uuid().as_u128()
}

/// The span that makes an event.
#[must_use]
pub fn span_of_event(event: Id) -> u64 {
    span_id(trace_of(event) as u64, 0)
}

/// The span of an incident itself, from which all others of its trace descend.
#[must_use]
pub fn span_of_incident(trace: u128) -> u64 {
    span_id(trace as u64, 0x1_4c1d)
}

/// A span id from what it belongs to and a word that keeps spans of one thing apart. The mix is the finalizer of
/// SplitMix64: one to one, and every bit of the input reaches every bit of the result.
#[must_use]
pub fn span_id(of: u64, salt: u64) -> u64 {
    let mut mixed = of ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).max(1)
}

/// Which traces are recorded: by their id alone, so that every role and site decides alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// A trace is recorded from this value of its chance on.
    from: u64,
}

impl Sampler {
    /// Records this share of all traces, 0 to 1.
    #[must_use]
    pub fn new(ratio: f64) -> Self {
        let left_out = (1.0 - ratio.clamp(0.0, 1.0)) * (CHANCE + 1) as f64;
        Self {
            from: left_out as u64,
        }
    }

    /// Whether it records this one.
    #[must_use]
    pub fn takes(self, trace: u128) -> bool {
        (trace as u64 & CHANCE) >= self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ids;

    #[test]
    fn a_traceparent_is_read_as_it_is_written_and_nothing_else_is_one() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let found = TraceContext::parse(text).expect("one");
        assert!(found.sampled);
        assert_eq!(found.to_string(), text);
        let later = text.replacen("00", "cc", 1) + "-more";
        assert_eq!(TraceContext::parse(&later), Some(found));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_sampler_takes_its_share_and_all_or_nothing_at_the_ends() {
        let traces: Vec<u128> = (0..10_000_u32)
            .map(|n| {
                trace_of(ids::derive_v8(
                    i64::from(n),
                    &[b"incident", &n.to_be_bytes()],
                ))
            })
            .collect();
        let taken = |ratio: f64| {
            let sampler = Sampler::new(ratio);
            traces.iter().filter(|trace| sampler.takes(**trace)).count()
        };
        assert_eq!((taken(0.0), taken(1.0)), (0, 10_000));
        assert!((900..1100).contains(&taken(0.1)), "{}", taken(0.1));
    }

    #[test]
    fn spans_of_one_thing_are_kept_apart() {
        let id = ids::derive_v8(1, &[b"event"]);
        let spans = [
            span_of_event(id),
            span_of_incident(trace_of(id)),
            span_id(trace_of(id) as u64, 7),
        ];
        assert!(spans.iter().all(|span| *span != 0));
        assert!(spans[0] != spans[1] && spans[1] != spans[2] && spans[0] != spans[2]);
    }
}
