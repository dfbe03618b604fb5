//! Carries out the replay and redrive jobs of one queue, one at a time, beside the live traffic (DESIGN 7).
//!
//! Jobs stand in the bucket `REPLAYS`, written by the audit role. This loop reads the archive page by page and hands each
//! page to the writer; the job's place is in the role's store and moves in the commit that handles the page, so whatever
//! dies, the job goes on where it was. What it puts into the bucket about its progress is for people who look.

mod running;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::running::{Running, bounds, page, progress};
use crate::bus::{self, Bus, EVENTS, Headers, Outgoing, REPLAYS_STREAM, Stored};
use crate::event::{Actor, DeadReason, Key, ReplayMode, ids};
use crate::node::clock::Clock;
use crate::node::engine::{End, ReplayPage, SharedRoutes, Work};
use crate::node::filters;
use crate::node::letter::{self, Letter};
use crate::node::writer::Job as WriterJob;
use crate::role::audit::job::{Job, Kind, REPLAYS};
use crate::routing::pattern::Pattern;
use crate::store::{self, Reader, ReplayRow, ReplayState};

/// Events in one step.
const PAGE: usize = 256;
/// How often new jobs and cancellations are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often letters are looked for that the server's advisories led to.
const LOOK_FOR_EXHAUSTED_MS: i64 = 30_000;
/// How often progress is told.
const TELL_EVERY_MS: i64 = 1000;

/// What the loop works with.
#[derive(Debug)]
pub struct Replays<B> {
    /// The broker.
    pub bus: B,
    /// The queue.
    pub queue: &'static str,
    /// The role's database.
    pub path: PathBuf,
    /// The rules in force.
    pub routes: SharedRoutes,
    /// To the role's writer.
    pub jobs: mpsc::Sender<WriterJob>,
    /// From the role's writer: how far a job is after a page.
    pub progress: mpsc::UnboundedReceiver<ReplayRow>,
    /// The clock.
    pub clock: Clock,
}

/// Why the loop has to try again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the writer has ended")]
    Ended,
}

/// The jobs of the queue as the bucket has them.
#[derive(Debug, Default)]
struct Known {
    jobs: BTreeMap<String, Arc<Job>>,
    read_to: u64,
    exhausted_due_ms: i64,
}

impl<B: Bus> Replays<B> {
    /// Carries jobs out until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut known = Known::default();
        let mut delay = LOOK_EVERY;
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.next_job(&mut known) => result,
            };
            delay = match result {
                Ok(true) => continue,
                Ok(false) => LOOK_EVERY,
                Err(Error::Ended) => return,
                Err(error) => {
                    tracing::warn!(queue = self.queue, %error, "replays wait, trying again");
                    (delay * 2).min(Duration::from_secs(5))
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Carries the oldest open job out to its end. False when there is none.
    async fn next_job(&mut self, known: &mut Known) -> Result<bool, Error> {
        self.look_for_exhausted(known).await?;
        if !self.look(known).await? {
            return Ok(false);
        }
        let reader = Reader::open(&self.path)?;
        if reader.catch_up()?.is_some_and(|of| of.done_at_ms.is_none()) {
            // First what came to the queue, in its order.
            return Ok(false);
        }
        let mut rows: BTreeMap<String, ReplayRow> = reader
            .replays()?
            .into_iter()
            .map(|row| (row.name.clone(), row))
            .collect();
        let open = |job: &&Arc<Job>| {
            let row = rows.get(job.name.as_str());
            row.is_none_or(|row| row.state == ReplayState::Running)
        };
        let mut oldest: Vec<Arc<Job>> = known.jobs.values().filter(open).cloned().collect();
        oldest.sort_by_key(|job| (job.started_at, job.name.clone()));
        if oldest.is_empty() {
            // What ended when nobody could be told, and what was told already: both are looked at once.
            for row in known.jobs.keys().filter_map(|name| rows.remove(name)) {
                self.tell(&row).await?;
            }
            known.jobs.clear();
            return Ok(false);
        }
        for job in oldest {
            if self.ready(&job).await? {
                let row = rows.remove(job.name.as_str());
                self.carry_out(job, row, known).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The fill replay of a widened queue waits until this process has the rules that the queue's filters come from, and
    /// until the queue itself has brought home what it offers: offered, an event counts as live, and replayed it does not.
    async fn ready(&self, job: &Job) -> Result<bool, Error> {
        if job.offered.is_empty() || job.cancelled_by.is_some() {
            return Ok(true);
        }
        let ours = self.filters();
        if !filters::same(&self.bus.filters(self.queue).await?, &ours) {
            return Ok(false);
        }
        let state = self.bus.queue(self.queue).await?;
        Ok(filters::passed(&state, job.to_seq.unwrap_or(0)))
    }

    fn filters(&self) -> Vec<String> {
        let routes = self
            .routes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        routes.filters(self.queue)
    }

    /// Letters of deliveries that no engine answered are redriven by themselves, once, by a job of our own (DESIGN 7): the
    /// fault was not the event's. Whatever becomes of them is the engine's to say then, and has another reason.
    async fn look_for_exhausted(&self, known: &mut Known) -> Result<(), Error> {
        let now = self.clock.now();
        if now.ms() < known.exhausted_due_ms {
            return Ok(());
        }
        let stream = self.bus.stream(EVENTS).await?.identity.0;
        let letters = letter::of_queue(&self.bus, self.queue).await?;
        let exhausted: Vec<&Letter> = letters
            .iter()
            .filter(|one| one.reason == DeadReason::DeliveryExhausted && one.stream == stream)
            .collect();
        known.exhausted_due_ms = now.ms() + LOOK_FOR_EXHAUSTED_MS;
        if exhausted.is_empty() {
            return Ok(());
        }
        let of_letters: Vec<&[u8]> = exhausted
            .iter()
            .map(|one| one.dead_letter_id.uuid().as_bytes().as_slice())
            .collect();
        // The same letters are the same job: it is not done twice, whatever is restarted.
        let name = format!("exhausted-{}", ids::derive_v8(0, &of_letters).short());
        let name = Key::new(name).map_err(|error| bus::Error::Unsuitable(error.to_string()))?;
        let mut seqs: Vec<u64> = exhausted.iter().map(|one| one.seq).collect();
        seqs.sort_unstable();
        let job = Job {
            name: name.clone(),
            queue: self.queue.to_owned(),
            kind: Kind::Redrive,
            mode: ReplayMode::Fill,
            from_seq: seqs.first().copied(),
            to_seq: seqs.last().copied(),
            seqs,
            pattern: None,
            entity: None,
            offered: Vec::new(),
            allow_external: true,
            rate: None,
            description: Some("deliveries that no engine answered".to_owned()),
            started_by: Actor::System(self.queue.trim_end_matches("-queue").to_owned()),
            started_at: now,
            cancelled_by: None,
        };
        known.jobs.insert(name.to_string(), Arc::new(job));
        Ok(())
    }

    /// Reads what is new in the bucket. False when no job of this queue may be open.
    async fn look(&self, known: &mut Known) -> Result<bool, Error> {
        loop {
            let filter = format!("$KV.{REPLAYS}.job.>");
            let from = known.read_to + 1;
            let page = self
                .bus
                .read(REPLAYS_STREAM, &filter, from, PAGE, false)
                .await?;
            let Some(last) = page.last() else {
                return Ok(!known.jobs.is_empty());
            };
            known.read_to = last.seq;
            for stored in &page {
                match serde_json::from_slice::<Job>(&stored.body) {
                    Ok(job) if job.queue == self.queue => {
                        known.jobs.insert(job.name.to_string(), Arc::new(job));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(subject = stored.subject, %error, "a replay job can't be read");
                    }
                }
            }
        }
    }

    async fn carry_out(
        &mut self,
        job: Arc<Job>,
        row: Option<ReplayRow>,
        known: &mut Known,
    ) -> Result<(), Error> {
        let mut running = match self.take_up(&job, row).await? {
            Ok(running) => running,
            Err((bounds, why)) => {
                self.step(page(&job, bounds, bounds.0, Some(End::Failed(why))))
                    .await?;
                return Ok(());
            }
        };
        loop {
            self.look(known).await?;
            if let Some(newer) = known.jobs.get(job.name.as_str()) {
                running.job = Arc::clone(newer);
            }
            let began = self.clock.now();
            let page = match &running.job.cancelled_by {
                Some(by) => running.page(Some(End::Cancelled(by.clone()))),
                None => self.read(&running).await?,
            };
            let events = page.events.len();
            running.row = self.step(page).await?;
            let now_ms = self.clock.now().ms();
            let ended = running.row.state != ReplayState::Running;
            if ended || now_ms - running.told_at_ms >= TELL_EVERY_MS {
                self.tell(&running.row).await?;
                running.told_at_ms = now_ms;
            }
            if ended {
                return Ok(());
            }
            if let Some(rate) = running.job.rate {
                let due = Duration::from_secs_f64(events as f64 / f64::from(rate));
                tokio::time::sleep(due.saturating_sub(self.clock.since(began))).await;
            }
        }
    }

    /// What a job needs besides its description. The inner error says why it can't be carried out.
    async fn take_up(
        &self,
        job: &Arc<Job>,
        row: Option<ReplayRow>,
    ) -> Result<Result<Running, ((u64, u64), String)>, Error> {
        let state = self.bus.stream(EVENTS).await?;
        let letters: BTreeMap<u64, Arc<Letter>> = letter::of_queue(&self.bus, self.queue)
            .await?
            .into_iter()
            .filter(|letter| letter.stream == state.identity.0)
            .map(|letter| (letter.seq, Arc::new(letter)))
            .collect();
        let bounds = bounds(job, &state, &letters);
        let pattern = match job.pattern.clone().map(Pattern::new).transpose() {
            Ok(pattern) => pattern,
            Err(error) => return Ok(Err((bounds, format!("the pattern: {error}")))),
        };
        let row = row.unwrap_or_else(|| ReplayRow {
            name: job.name.to_string(),
            state: ReplayState::Running,
            from_seq: bounds.0,
            to_seq: bounds.1,
            next_seq: bounds.0,
            handled: 0,
            duplicates: 0,
            filtered: 0,
            failed: 0,
            started_at_ms: self.clock.now().ms(),
            ended_at_ms: None,
            error: None,
        });
        Ok(Ok(Running {
            job: Arc::clone(job),
            pattern,
            row,
            letters,
            told_at_ms: 0,
        }))
    }

    /// The next page of a job.
    async fn read(&self, running: &Running) -> Result<ReplayPage, Error> {
        let (from, to) = (running.row.next_seq, running.row.to_seq);
        let stream = self.bus.stream(EVENTS).await?;
        let limit = running
            .job
            .rate
            .map_or(PAGE, |rate| (rate as usize).clamp(1, PAGE));
        let chosen = running.chosen();
        let (stored, next_seq) = match chosen {
            Some(seqs) => {
                let seqs: Vec<u64> = seqs
                    .into_iter()
                    .filter(|seq| *seq >= from)
                    .take(limit)
                    .collect();
                let mut stored = Vec::new();
                for seq in &seqs {
                    stored.extend(super::archive::at(&self.bus, *seq).await?);
                }
                (stored, seqs.last().map_or(to + 1, |last| last + 1))
            }
            None if from > to => (Vec::new(), to + 1),
            None => {
                let page = self
                    .bus
                    .read(
                        EVENTS,
                        &self.widest_filter(&running.job),
                        from,
                        limit,
                        false,
                    )
                    .await?;
                let next = page.last().map_or(to, |last| last.seq) + 1;
                (page, next.min(to + 1))
            }
        };
        let own = self.filters();
        let before = &running.job.offered;
        let of_queue = |stored: &Stored| {
            stored.seq <= to
                && filters::passes(&own, &stored.subject)
                && !filters::offered(before, stored.seq, &stored.subject)
        };
        let events = stored
            .into_iter()
            .filter(of_queue)
            .map(|stored| running.replayed(stored, &stream))
            .filter(|replayed| running.wants(replayed))
            .collect();
        let end = (next_seq > to).then_some(End::Completed);
        Ok(ReplayPage {
            events,
            next_seq,
            ..running.page(end)
        })
    }

    /// The queue's own filter where it has one; else everything, and what is not for it is passed over here: a direct get
    /// takes one filter. An entity is part of it, so that the server finds its events, however late in the archive.
    fn widest_filter(&self, job: &Job) -> String {
        match (self.filters().as_slice(), &job.entity) {
            ([only], Some(entity)) if only.ends_with(".*") => {
                format!("{}{entity}", only.trim_end_matches('*'))
            }
            (_, Some(entity)) => format!("roadcall.*.*.*.{entity}"),
            ([only], None) => only.clone(),
            (_, None) => "roadcall.>".to_owned(),
        }
    }

    async fn step(&mut self, page: ReplayPage) -> Result<ReplayRow, Error> {
        let name = page.job.name.to_string();
        let work = WriterJob::Do(Work::Replay(Box::new(page)));
        self.jobs.send(work).await.map_err(|_| Error::Ended)?;
        loop {
            let row = self.progress.recv().await.ok_or(Error::Ended)?;
            if row.name == name {
                return Ok(row);
            }
        }
    }

    /// Puts a job's progress into the bucket.
    async fn tell(&self, row: &ReplayRow) -> Result<(), bus::Error> {
        let document = progress(row);
        let message = Outgoing {
            subject: format!("$KV.{REPLAYS}.progress.{}", row.name),
            headers: Headers::default(),
            body: Bytes::from(document.to_string()),
            msg_id: uuid::Uuid::new_v4().to_string(),
            expected_last_subject_seq: None,
        };
        match self.bus.publish(vec![message]).await.stopped {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
