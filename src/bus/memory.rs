//! A deterministic model of a broker, for simulation: the promises of [`Bus`] with faults drawn from a seed.
//!
//! Everything happens in memory and every future is ready at once; time is a shared counter that the simulation moves.
//! It models what Roadcall relies on: streams with a dedup window, durable consumers with ack_wait and reset, a server
//! that restarts, loses its tail, loses acks, delivers twice and late. It models no cluster and no disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{
    AckToken, Bus, DEDUP_WINDOW, DLQ, Delivery, EVENTS, Error, Outgoing, PubAck, Published,
    QueueState, Stored, StreamId, StreamState,
};

/// How often each fault strikes, out of 1,000.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A publish is stored but its ack is lost; what follows in the call is not sent.
    pub lose_pub_ack: u32,
    /// A publish fails before it is stored.
    pub refuse_publish: u32,
    /// An ack of a delivery is lost.
    pub lose_ack: u32,
    /// A delivery is handed over twice.
    pub duplicate: u32,
    /// A delivery and what is behind it come later.
    pub delay: u32,
    /// Two neighbouring deliveries of different entities change places.
    pub reorder: u32,
}

/// The model. Clones share one broker.
#[derive(Debug, Clone)]
pub struct MemoryBus {
    inner: Arc<Mutex<Inner>>,
    now_ms: Arc<AtomicI64>,
}

#[derive(Debug)]
struct Inner {
    streams: BTreeMap<&'static str, Stream>,
    consumers: HashMap<String, Consumer>,
    faults: Faults,
    random: u64,
    server: u64,
    epoch: u64,
    down: bool,
}

#[derive(Debug, Clone)]
struct Stream {
    identity: i64,
    messages: BTreeMap<u64, Stored>,
    last_seq: u64,
    ids: HashMap<String, (u64, i64)>,
    one_per_subject: bool,
}

#[derive(Debug, Clone)]
struct Consumer {
    filters: Vec<String>,
    ack_wait_ms: i64,
    max_ack_pending: usize,
    delivered_seq: u64,
    acked: BTreeSet<u64>,
    ack_floor: u64,
    pending: BTreeMap<u64, Pending>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    deliveries: u64,
    due_ms: i64,
}

impl MemoryBus {
    /// A broker with empty streams `EVENTS` and `DLQ`.
    #[must_use]
    pub fn new(now_ms: Arc<AtomicI64>, seed: u64, faults: Faults) -> Self {
        let stream = |one_per_subject| Stream {
            identity: 1,
            messages: BTreeMap::new(),
            last_seq: 0,
            ids: HashMap::new(),
            one_per_subject,
        };
        let streams = BTreeMap::from([(EVENTS, stream(false)), (DLQ, stream(true))]);
        let inner = Inner {
            streams,
            consumers: HashMap::new(),
            faults,
            random: seed,
            server: 1,
            epoch: 1,
            down: false,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            now_ms,
        }
    }

    /// Makes a durable consumer on `EVENTS`, as `topology apply` would.
    pub fn create_queue(
        &self,
        queue: &str,
        filters: Vec<String>,
        ack_wait: Duration,
        max_ack_pending: usize,
    ) {
        let consumer = Consumer {
            filters,
            ack_wait_ms: i64::try_from(ack_wait.as_millis()).unwrap_or(i64::MAX),
            max_ack_pending,
            delivered_seq: 0,
            acked: BTreeSet::new(),
            ack_floor: 0,
            pending: BTreeMap::new(),
        };
        self.lock().consumers.insert(queue.to_owned(), consumer);
    }

    /// Changes the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Cuts or restores the connection. A restored one counts as a new connection.
    pub fn set_down(&self, down: bool) {
        let mut inner = self.lock();
        if inner.down && !down {
            inner.epoch += 1;
        }
        inner.down = down;
    }

    /// Restarts the server process: what was pending comes again at once, and everybody reconnects.
    pub fn restart(&self) {
        let mut inner = self.lock();
        inner.server += 1;
        inner.epoch += 1;
        for consumer in inner.consumers.values_mut() {
            consumer
                .pending
                .values_mut()
                .for_each(|pending| pending.due_ms = i64::MIN);
        }
    }

    /// Restarts the server from an older copy: the newest `lost` messages of `EVENTS` are gone, and so is what consumers
    /// knew of them. Sequences are given out again.
    pub fn roll_back(&self, lost: u64) {
        self.restart();
        let mut inner = self.lock();
        let Some(stream) = inner.streams.get_mut(EVENTS) else {
            return;
        };
        let kept = stream.last_seq.saturating_sub(lost);
        stream.messages.retain(|seq, _| *seq <= kept);
        stream.ids.retain(|_, (seq, _)| *seq <= kept);
        stream.last_seq = kept;
        for consumer in inner.consumers.values_mut() {
            consumer.delivered_seq = consumer.delivered_seq.min(kept);
            consumer.ack_floor = consumer.ack_floor.min(kept);
            consumer.acked.retain(|seq| *seq <= kept);
            consumer.pending.retain(|seq, _| *seq <= kept);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code path leaves the model half changed, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }
}

impl Inner {
    /// splitmix64: small, and the same everywhere.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn strikes(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.random() % 1000 < u64::from(per_mille)
    }

    fn up(&self) -> Result<(), Error> {
        if self.down {
            Err(Error::Unavailable("the connection is down".to_owned()))
        } else {
            Ok(())
        }
    }

    fn stream(&self, name: &str) -> Result<&Stream, Error> {
        self.up()?;
        self.streams
            .get(name)
            .ok_or_else(|| Error::Missing(format!("stream {name}")))
    }

    fn store(&mut self, message: &Outgoing, now_ms: i64) -> Result<PubAck, Error> {
        let name = if message.subject.starts_with("dlq.") {
            DLQ
        } else {
            EVENTS
        };
        let stream = self
            .streams
            .get_mut(name)
            .ok_or_else(|| Error::Missing(format!("stream {name}")))?;
        let window_ms = i64::try_from(DEDUP_WINDOW.as_millis()).unwrap_or(i64::MAX);
        if let Some((seq, at_ms)) = stream.ids.get(&message.msg_id)
            && now_ms - at_ms < window_ms
        {
            return Ok(PubAck {
                seq: *seq,
                duplicate: true,
            });
        }
        let on_subject: Vec<u64> = if stream.one_per_subject {
            stream
                .messages
                .values()
                .filter(|stored| stored.subject == message.subject)
                .map(|stored| stored.seq)
                .collect()
        } else {
            Vec::new()
        };
        if message
            .expected_last_subject_seq
            .is_some_and(|wanted| on_subject.last().copied().unwrap_or(0) != wanted)
        {
            return Ok(PubAck {
                seq: 0,
                duplicate: true,
            });
        }
        for seq in on_subject {
            stream.messages.remove(&seq);
        }
        stream.last_seq += 1;
        let seq = stream.last_seq;
        let mut headers = message.headers.clone();
        headers.push("Nats-Msg-Id", message.msg_id.clone());
        let stored = Stored {
            seq,
            subject: message.subject.clone(),
            headers,
            body: message.body.clone(),
            received_at_ms: now_ms,
        };
        stream.messages.insert(seq, stored);
        stream.ids.insert(message.msg_id.clone(), (seq, now_ms));
        Ok(PubAck {
            seq,
            duplicate: false,
        })
    }

    fn take(&mut self, queue: &str, max: usize, now_ms: i64) -> Result<Vec<Delivery>, Error> {
        self.up()?;
        let faults = self.faults;
        let mut consumer = self
            .consumers
            .get(queue)
            .cloned()
            .ok_or_else(|| Error::Missing(format!("consumer {queue}")))?;
        let (identity, mut seqs) = {
            let stream = self.stream(EVENTS)?;
            let redelivered = consumer
                .pending
                .iter()
                .filter(|(_, p)| p.due_ms <= now_ms)
                .map(|(seq, _)| *seq);
            let fresh = stream
                .messages
                .range(consumer.delivered_seq + 1..)
                .filter(|(seq, stored)| {
                    !consumer.acked.contains(seq)
                        && consumer
                            .filters
                            .iter()
                            .any(|filter| subject_matches(filter, &stored.subject))
                })
                .map(|(seq, _)| *seq)
                .take(max);
            (
                stream.identity,
                redelivered.chain(fresh).take(max).collect::<Vec<u64>>(),
            )
        };
        let mut deliveries = Vec::new();
        seqs.dedup();
        for seq in seqs {
            let fresh = !consumer.pending.contains_key(&seq);
            if fresh && consumer.pending.len() >= consumer.max_ack_pending {
                break;
            }
            // The connection keeps order, so what comes late holds up what is behind it.
            if self.strikes(faults.delay) {
                break;
            }
            let twice = self.strikes(faults.duplicate);
            let pending = consumer.pending.entry(seq).or_insert(Pending {
                deliveries: 0,
                due_ms: 0,
            });
            consumer.delivered_seq = consumer.delivered_seq.max(seq);
            pending.deliveries += 1;
            pending.due_ms = now_ms + consumer.ack_wait_ms;
            let Some(stored) = self
                .streams
                .get(EVENTS)
                .and_then(|stream| stream.messages.get(&seq))
            else {
                continue;
            };
            let delivery = Delivery {
                stream: StreamId(identity),
                seq,
                subject: stored.subject.clone(),
                headers: stored.headers.clone(),
                body: stored.body.clone(),
                delivered: pending.deliveries,
                received_at_ms: stored.received_at_ms,
                token: AckToken(format!("{queue} {seq}")),
            };
            if twice {
                deliveries.push(delivery.clone());
            }
            deliveries.push(delivery);
        }
        self.consumers.insert(queue.to_owned(), consumer);
        for at in 1..deliveries.len() {
            let entity =
                |delivery: &Delivery| delivery.subject.rsplit('.').next().map(str::to_owned);
            if self.strikes(faults.reorder)
                && entity(&deliveries[at - 1]) != entity(&deliveries[at])
            {
                deliveries.swap(at - 1, at);
            }
        }
        Ok(deliveries)
    }
}

impl Consumer {
    fn ack(&mut self, seq: u64) {
        if self.pending.remove(&seq).is_some() {
            self.acked.insert(seq);
        }
        self.settle();
    }

    /// The floor is below everything pending; acked sequences under it need not be remembered.
    fn settle(&mut self) {
        self.ack_floor = self
            .pending
            .keys()
            .next()
            .map_or(self.delivered_seq, |first| first - 1);
        self.acked = self.acked.split_off(&(self.ack_floor + 1));
    }
}

fn subject_matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

impl Bus for MemoryBus {
    async fn publish(&self, messages: Vec<Outgoing>) -> Published {
        let mut inner = self.lock();
        let mut acks = Vec::with_capacity(messages.len());
        for message in &messages {
            let faults = inner.faults;
            let refused = inner.up().err().or_else(|| {
                let strikes = inner.strikes(faults.refuse_publish);
                strikes.then(|| Error::Unavailable("the publish was lost".to_owned()))
            });
            if let Some(error) = refused {
                return Published {
                    acks,
                    stopped: Some(error),
                };
            }
            match inner.store(message, self.now()) {
                Ok(ack) => {
                    if inner.strikes(faults.lose_pub_ack) {
                        return Published {
                            acks,
                            stopped: Some(Error::Unavailable("the ack was lost".to_owned())),
                        };
                    }
                    acks.push(ack);
                }
                Err(error) => {
                    return Published {
                        acks,
                        stopped: Some(error),
                    };
                }
            }
        }
        Published {
            acks,
            stopped: None,
        }
    }

    async fn fetch(
        &self,
        queue: &str,
        max: usize,
        _wait: Duration,
    ) -> Result<Vec<Delivery>, Error> {
        self.lock().take(queue, max, self.now())
    }

    async fn ack(&self, tokens: Vec<AckToken>) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.up()?;
        let faults = inner.faults;
        for token in tokens {
            let Some((queue, seq)) = token.0.split_once(' ') else {
                continue;
            };
            let Ok(seq) = seq.parse() else { continue };
            if inner.strikes(faults.lose_ack) {
                continue;
            }
            if let Some(consumer) = inner.consumers.get_mut(queue) {
                consumer.ack(seq);
            }
        }
        Ok(())
    }

    async fn reset(&self, queue: &str) -> Result<QueueState, Error> {
        let before = self.queue(queue).await?;
        let mut inner = self.lock();
        if let Some(consumer) = inner.consumers.get_mut(queue) {
            consumer.settle();
            consumer.pending.clear();
            consumer.delivered_seq = consumer.ack_floor;
            consumer.acked.clear();
        }
        Ok(before)
    }

    async fn queue(&self, queue: &str) -> Result<QueueState, Error> {
        let inner = self.lock();
        inner.up()?;
        let consumer = inner
            .consumers
            .get(queue)
            .ok_or_else(|| Error::Missing(format!("consumer {queue}")))?;
        let fresh = inner
            .stream(EVENTS)?
            .messages
            .range(consumer.delivered_seq + 1..);
        let pending = fresh.filter(|(_, stored)| {
            consumer
                .filters
                .iter()
                .any(|f| subject_matches(f, &stored.subject))
        });
        Ok(QueueState {
            delivered_seq: consumer.delivered_seq,
            ack_floor_seq: consumer.ack_floor,
            ack_pending: consumer.pending.len() as u64,
            pending: pending.count() as u64,
        })
    }

    async fn filters(&self, queue: &str) -> Result<Vec<String>, Error> {
        let inner = self.lock();
        inner.up()?;
        let consumer = inner.consumers.get(queue);
        consumer
            .map(|consumer| consumer.filters.clone())
            .ok_or_else(|| Error::Missing(format!("consumer {queue}")))
    }

    async fn stream(&self, stream: &str) -> Result<StreamState, Error> {
        let inner = self.lock();
        let held = inner.stream(stream)?;
        Ok(StreamState {
            identity: StreamId(held.identity),
            server_id: format!("server-{}", inner.server),
            first_seq: held
                .messages
                .keys()
                .next()
                .copied()
                .unwrap_or(held.last_seq + 1),
            last_seq: held.last_seq,
            messages: held.messages.len() as u64,
            bytes: held
                .messages
                .values()
                .map(|stored| stored.body.len() as u64)
                .sum(),
        })
    }

    async fn read(
        &self,
        stream: &str,
        subject_filter: &str,
        from_seq: u64,
        max: usize,
        headers_only: bool,
    ) -> Result<Vec<Stored>, Error> {
        let inner = self.lock();
        let messages = inner.stream(stream)?.messages.range(from_seq..);
        let matching = messages
            .filter(|(_, stored)| subject_matches(subject_filter, &stored.subject))
            .take(max);
        Ok(matching
            .map(|(_, stored)| Stored {
                body: if headers_only {
                    Bytes::new()
                } else {
                    stored.body.clone()
                },
                ..stored.clone()
            })
            .collect())
    }

    fn connection_epoch(&self) -> u64 {
        self.lock().epoch
    }
}
