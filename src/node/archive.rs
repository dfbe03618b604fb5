//! Looking things up in the archive by what JetStream has no index for.

use super::letter::{self, Letter};
use crate::bus::{AckToken, Bus, Delivery, EVENTS, Error, Stored};
use crate::event::Id;

/// How far apart the clocks of a producer and of the broker are believed to be at the most, milliseconds.
pub(super) const CLOCK_SKEW_MS: i64 = 600_000;
/// Messages in one read.
const PAGE: usize = 1000;

/// The first archived copy of event `id`, headers only, or nothing.
///
/// An id tells its time (UUIDv7, UUIDv8 of DESIGN 4), and an event can't be archived before it was made: the search
/// starts at that time and goes on to the end, because an outbox may have waited for days. An id of another kind is
/// looked for from the first sequence.
///
/// # Errors
/// Any bus error.
pub async fn find<B: Bus>(bus: &B, id: Id) -> Result<Option<Stored>, Error> {
    find_before(bus, id, u64::MAX).await
}

/// The same among the sequences below `end`: for what must be older than something else.
///
/// # Errors
/// Any bus error.
pub async fn find_before<B: Bus>(bus: &B, id: Id, end: u64) -> Result<Option<Stored>, Error> {
    let wanted = id.to_string();
    let state = bus.stream(EVENTS).await?;
    let mut from = match made_at_ms(id) {
        Some(ms) => first_at(bus, ms - CLOCK_SKEW_MS, state.first_seq, state.last_seq + 1).await?,
        None => state.first_seq,
    };
    loop {
        let page = bus.read(EVENTS, "roadcall.>", from, PAGE, true).await?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        from = last.seq + 1;
        let found = page
            .into_iter()
            .find(|stored| stored.seq < end && stored.headers.get("Nats-Msg-Id") == Some(&wanted));
        if found.is_some() || from >= end {
            return Ok(found);
        }
    }
}

/// The archived message at `seq`, whole.
///
/// # Errors
/// Any bus error.
pub async fn at<B: Bus>(bus: &B, seq: u64) -> Result<Option<Stored>, Error> {
    let mut read = bus.read(EVENTS, "roadcall.>", seq, 1, false).await?;
    Ok(read.pop().filter(|stored| stored.seq == seq))
}

/// The event that a letter is about, as it would be delivered, if the archive still has it where the letter says: after
/// a rollback another one may be there, and the lost one comes again under another sequence.
///
/// # Errors
/// Any bus error.
pub async fn of_letter<B: Bus>(bus: &B, letter: &Letter) -> Result<Option<Delivery>, Error> {
    let stream = bus.stream(EVENTS).await?.identity;
    let stored = at(bus, letter.seq).await?;
    let same = |stored: &Stored| {
        let body = match (&letter.payload, &letter.payload_hex) {
            (Some(text), _) => text.as_bytes() == &stored.body[..],
            (None, Some(hex)) => *hex == letter::hex(&stored.body),
            (None, None) => false,
        };
        stream.0 == letter.stream && stored.subject == letter.subject && body
    };
    Ok(stored.filter(same).map(|stored| Delivery {
        stream,
        seq: stored.seq,
        subject: stored.subject,
        headers: stored.headers,
        body: stored.body,
        delivered: 0,
        received_at_ms: stored.received_at_ms,
        token: AckToken::default(),
    }))
}

/// The smallest sequence in `first..end` that the stream took at `ms` or later; `end` when there is none. Sequences and
/// times of receipt grow together.
///
/// # Errors
/// Any bus error.
pub async fn first_at<B: Bus>(
    bus: &B,
    ms: i64,
    mut first: u64,
    mut end: u64,
) -> Result<u64, Error> {
    while first < end {
        let middle = first + (end - first) / 2;
        let stored = bus.read(EVENTS, "roadcall.>", middle, 1, true).await?;
        match stored.first() {
            Some(stored) if stored.received_at_ms < ms => first = stored.seq + 1,
            _ => end = middle,
        }
    }
    Ok(end)
}

/// The time in an id, Unix milliseconds, for the two versions that carry one in their first 48 bits.
fn made_at_ms(id: Id) -> Option<i64> {
    let uuid = id.uuid();
    let ms = uuid.as_u128() >> 80;
    matches!(uuid.get_version_num(), 7 | 8).then(|| i64::try_from(ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ids;

    #[test]
    fn an_id_tells_its_time_only_in_versions_7_and_8() {
        assert_eq!(
            made_at_ms(ids::derive_v7(1_700_000_000_000, &[])),
            Some(1_700_000_000_000)
        );
        assert_eq!(
            made_at_ms(ids::derive_v8(1_700_000_000_001, &[])),
            Some(1_700_000_000_001)
        );
        let random: Id = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
            .parse()
            .expect("an id");
        assert_eq!(made_at_ms(random), None);
    }
}
