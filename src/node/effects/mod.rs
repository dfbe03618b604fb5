//! Calls to the outside, after the commit that asked for them: bounded in number, timed, retried, behind a breaker.
//!
//! At least once under a stable key (promise 2): the request is in the store until its result was handled, so a crash
//! makes the call again with the same key. How a call ended comes back to the role as an input of its own; an unknown
//! outcome is an outcome, never success (DOMAIN 6).

mod breaker;
mod traced;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use self::breaker::Breaker;
pub use self::breaker::BreakerState;
use super::clock::Clock;
use super::engine::Work;
use super::trace::RoleTracer;
use super::writer::{Job, Reply};
use crate::event::trace::TraceContext;
use crate::event::{Keyring, seal};
use crate::provider::{CallError, Runner};
use crate::role::{Code, Rejection};
use crate::store::{EffectCall, EffectOutcome};

/// Calls at once, for one role.
const AT_ONCE: usize = 64;
/// The runners that a process has, with a breaker for each service.
#[derive(Default)]
pub struct Runners {
    by_kind: BTreeMap<&'static str, Arc<dyn Runner>>,
    breakers: Mutex<BTreeMap<&'static str, Breaker>>,
    clock: Clock,
    keys: Option<Arc<dyn Keyring>>,
}

impl std::fmt::Debug for Runners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runners of {:?}", self.by_kind.keys())
    }
}

impl Runners {
    /// Runners by the kinds that they name; of two for one kind the later stays. Breakers go by `clock`.
    #[must_use]
    pub fn new(runners: Vec<Arc<dyn Runner>>, clock: Clock) -> Self {
        let by_kind = runners.into_iter().map(|runner| (runner.kind(), runner));
        Self {
            by_kind: by_kind.collect(),
            breakers: Mutex::default(),
            clock,
            keys: None,
        }
    }

    /// Opens the sealed texts of requests with these keys, just before they go out.
    #[must_use]
    pub fn opening_with(mut self, keys: Option<Arc<dyn Keyring>>) -> Self {
        self.keys = keys;
        self
    }

    /// The call as it goes out; or how it ends, where it can't.
    async fn opened(&self, call: &EffectCall) -> Result<EffectCall, EffectOutcome> {
        let mut call = call.clone();
        let Some(keys) = self.keys.clone() else {
            return Ok(call);
        };
        // A key may have to be asked for.
        let opening = tokio::task::spawn_blocking(move || {
            let known = seal::reveal(&mut call.request, keys.as_ref());
            known.map(|known| known.then_some(call))
        });
        match opening.await {
            Ok(Ok(Some(call))) => Ok(call),
            Ok(Ok(None)) => Err(EffectOutcome::Failed("the person was erased".to_owned())),
            Ok(Err(error)) => Err(EffectOutcome::NotSent(error.to_string())),
            Err(error) => Err(EffectOutcome::NotSent(error.to_string())),
        }
    }

    /// Makes a call, with retries where the service takes them, and says how it ended.
    pub async fn run(&self, call: &EffectCall) -> EffectOutcome {
        let Some(runner) = self.by_kind.get(call.kind.as_str()) else {
            return EffectOutcome::Failed(format!(
                "nothing here makes calls of kind {}",
                call.kind
            ));
        };
        let opened = match self.opened(call).await {
            Ok(opened) => opened,
            Err(outcome) => return outcome,
        };
        let call = &opened;
        let mut waits = runner.waits().into_iter();
        // Once a try's end is unknown, only an answer makes it known: what a later try did not send says nothing of it.
        let mut in_doubt = None;
        loop {
            // Asked anew for each try, and first of all: a call from before a long stop may be made now.
            let late = runner.not_after(call);
            let late = late.is_some_and(|end| self.clock.now() >= end);
            if late {
                return EffectOutcome::NotSent("it has lost its sense".to_owned());
            }
            let now = self.clock.steady();
            if !self.breaker(runner.service(), |breaker| breaker.admit(now)) {
                let why = format!("{} is failing, its breaker is open", runner.service());
                return in_doubt.map_or(EffectOutcome::NotSent(why), EffectOutcome::Unknown);
            }
            let tried = tokio::time::timeout(runner.timeout(), runner.call(call)).await;
            let tried =
                tried.unwrap_or_else(|_| Err(CallError::Unknown("no answer in time".to_owned())));
            // A refusal is an answer: the service works.
            let works = matches!(tried, Ok(_) | Err(CallError::Refused(_)));
            let now = self.clock.steady();
            self.breaker(runner.service(), |breaker| breaker.report(now, works));
            let why = match tried {
                Ok(value) => return EffectOutcome::Done(value),
                Err(CallError::Refused(why)) => return EffectOutcome::Failed(why),
                Err(CallError::Unavailable(why)) => why,
                Err(CallError::Unknown(why)) => {
                    in_doubt = Some(why.clone());
                    why
                }
            };
            match waits.next().filter(|_| runner.idempotent()) {
                Some(wait) => tokio::time::sleep(jittered(wait)).await,
                None => return in_doubt.map_or(EffectOutcome::Failed(why), EffectOutcome::Unknown),
            }
        }
    }

    /// Whose service makes calls of this kind.
    #[must_use]
    pub fn service(&self, kind: &str) -> Option<&'static str> {
        self.by_kind.get(kind).map(|runner| runner.service())
    }

    /// How the breaker of each service stands that was called.
    #[must_use]
    pub fn breakers(&self) -> BTreeMap<String, BreakerState> {
        let breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let standing =
            |(service, breaker): (&&str, &Breaker)| ((*service).to_owned(), breaker.standing());
        breakers.iter().map(standing).collect()
    }

    fn breaker<T>(&self, service: &'static str, ask: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        ask(breakers.entry(service).or_default())
    }
}

/// `wait`, give or take a quarter.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + 0.5 * fastrand::f64())
}

/// A call, and who wants to know how it ended.
#[derive(Debug)]
pub enum Asked {
    /// The role: the call is in its store until the result was handled. The span that asked for it, where traced.
    Kept(EffectCall, Option<TraceContext>),
    /// Only whoever sent a command and waits for its reply.
    Reply(EffectCall, Option<TraceContext>, oneshot::Sender<Reply>),
}

/// Makes the calls that arrive, 64 at the most, and hands their outcomes to the writer, or to who asked, until the channel
/// closes. What is still on its way to the writer then is made again after the next start.
pub async fn make_calls(
    runners: Arc<Runners>,
    mut calls: mpsc::UnboundedReceiver<Asked>,
    jobs: mpsc::WeakSender<Job>,
    tracer: Option<RoleTracer>,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(asked) = calls.recv().await {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let (runners, jobs, tracer) = (Arc::clone(&runners), jobs.clone(), tracer.clone());
        tokio::spawn(async move {
            let tracer = tracer.as_ref();
            match asked {
                Asked::Kept(call, place) => {
                    let outcome = make(&runners, &call, tracer.zip(place)).await;
                    drop(permit);
                    if let Some(jobs) = jobs.upgrade() {
                        let key = call.key;
                        // A writer that has ended hands the call out again at its next start.
                        let _ = jobs.send(Job::Do(Work::Effect { key, outcome })).await;
                    }
                }
                Asked::Reply(call, place, asker) => {
                    let outcome = make(&runners, &call, tracer.zip(place)).await;
                    // The asker may have given up waiting.
                    let _ = asker.send(reply(outcome));
                }
            }
        });
    }
}

async fn make(
    runners: &Runners,
    call: &EffectCall,
    traced: Option<(&RoleTracer, TraceContext)>,
) -> EffectOutcome {
    let began = traced.map(|(tracer, place)| traced::begin(tracer, place));
    let outcome = runners.run(call).await;
    if let Some(began) = began {
        began.end(call, runners.service(&call.kind), &outcome);
    }
    if !matches!(outcome, EffectOutcome::Done(_)) {
        tracing::warn!(
            effect = call.key,
            kind = call.kind,
            ?outcome,
            "a call did not succeed"
        );
    }
    outcome
}

/// A call's outcome as the reply to a command. The service's own words stay in the log.
fn reply(outcome: EffectOutcome) -> Reply {
    let (code, message) = match outcome {
        EffectOutcome::Done(value) => return Ok(value),
        EffectOutcome::Failed(_) | EffectOutcome::NotSent(_) => (
            Code::ServiceUnavailable,
            "the service behind this can't be asked now, try again",
        ),
        EffectOutcome::Unknown(_) => (
            Code::Timeout,
            "the service behind this did not answer, try again",
        ),
    };
    Err(Rejection::new(code, message))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use serde_json::Value;

    use crate::provider::Try;
    use crate::store::EffectClass;

    /// Gives its answers in turn, the last one for ever.
    struct Scripted {
        answers: Vec<Option<Result<Value, CallError>>>,
        idempotent: bool,
        tries: AtomicUsize,
    }

    impl Runner for Scripted {
        fn kind(&self) -> &'static str {
            "scripted"
        }
        fn service(&self) -> &'static str {
            "a service"
        }
        fn idempotent(&self) -> bool {
            self.idempotent
        }
        fn call<'a>(&'a self, _call: &'a EffectCall) -> Try<'a> {
            let n = self
                .tries
                .fetch_add(1, Ordering::Relaxed)
                .min(self.answers.len() - 1);
            match self.answers[n].clone() {
                Some(answer) => Box::pin(std::future::ready(answer)),
                None => Box::pin(std::future::pending()),
            }
        }
    }

    fn call(kind: &str) -> EffectCall {
        EffectCall {
            key: "k".to_owned(),
            kind: kind.to_owned(),
            class: EffectClass::External,
            request: Value::Null,
            secret: None,
        }
    }

    async fn run(
        idempotent: bool,
        answers: Vec<Option<Result<Value, CallError>>>,
    ) -> (EffectOutcome, usize) {
        let tries = AtomicUsize::new(0);
        let runner = Arc::new(Scripted {
            answers,
            idempotent,
            tries,
        });
        let outcome = Runners::new(vec![runner.clone()], Clock)
            .run(&call("scripted"))
            .await;
        (outcome, runner.tries.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_without_an_answer_stays_in_doubt_until_one_comes() {
        let silent = || Some(Err(CallError::Unknown("silent".to_owned())));
        let doubt = EffectOutcome::Unknown("silent".to_owned());
        let (outcome, tries) = run(true, vec![silent(), busy()]).await;
        assert_eq!((outcome, tries), (doubt, 4));
        let refused = Some(Err(CallError::Refused("no".to_owned())));
        let (outcome, _) = run(true, vec![silent(), busy(), refused]).await;
        assert_eq!(outcome, EffectOutcome::Failed("no".to_owned()));
        let (outcome, tries) = run(true, vec![None, Some(Ok(Value::Null))]).await;
        assert_eq!((outcome, tries), (EffectOutcome::Done(Value::Null), 2));
    }

    fn busy() -> Option<Result<Value, CallError>> {
        Some(Err(CallError::Unavailable("503".to_owned())))
    }

    #[tokio::test(start_paused = true)]
    async fn only_idempotent_calls_are_tried_again_and_three_times_at_the_most() {
        let done = Some(Ok(Value::Bool(true)));
        let (outcome, tries) = run(true, vec![busy(), busy(), done]).await;
        assert_eq!(
            (outcome, tries),
            (EffectOutcome::Done(Value::Bool(true)), 3)
        );
        let (outcome, tries) = run(true, vec![busy()]).await;
        assert_eq!(
            (outcome, tries),
            (EffectOutcome::Failed("503".to_owned()), 4)
        );
        let (outcome, tries) = run(false, vec![busy()]).await;
        assert_eq!(
            (outcome, tries),
            (EffectOutcome::Failed("503".to_owned()), 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final_and_silence_is_unknown() {
        let refused = Some(Err(CallError::Refused("no such number".to_owned())));
        let (outcome, tries) = run(true, vec![refused]).await;
        assert_eq!(
            (outcome, tries),
            (EffectOutcome::Failed("no such number".to_owned()), 1)
        );
        let (outcome, tries) = run(false, vec![None]).await;
        assert!(matches!(outcome, EffectOutcome::Unknown(_)), "{outcome:?}");
        assert_eq!(tries, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_an_open_breaker_nothing_is_sent() {
        let runner = Arc::new(Scripted {
            answers: vec![busy()],
            idempotent: false,
            tries: AtomicUsize::new(0),
        });
        let runners = Runners::new(vec![runner.clone()], Clock);
        for _ in 0..10 {
            runners.run(&call("scripted")).await;
        }
        let outcome = runners.run(&call("scripted")).await;
        assert!(matches!(outcome, EffectOutcome::NotSent(_)), "{outcome:?}");
        assert_eq!(runner.tries.load(Ordering::Relaxed), 10);
    }

    /// Its calls have lost their sense at the epoch.
    struct Late(Scripted);

    impl Runner for Late {
        fn kind(&self) -> &'static str {
            self.0.kind()
        }
        fn service(&self) -> &'static str {
            self.0.service()
        }
        fn idempotent(&self) -> bool {
            true
        }
        fn not_after(&self, _call: &EffectCall) -> Option<crate::event::Ts> {
            Some(crate::event::Ts::from_ms(0))
        }
        fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
            self.0.call(call)
        }
    }

    #[tokio::test]
    async fn what_has_lost_its_sense_is_not_sent_however_long_ago_it_was_asked_for() {
        let late = Arc::new(Late(Scripted {
            answers: vec![Some(Ok(Value::Null))],
            idempotent: true,
            tries: AtomicUsize::new(0),
        }));
        let outcome = Runners::new(vec![late.clone()], Clock)
            .run(&call("scripted"))
            .await;
        assert!(matches!(outcome, EffectOutcome::NotSent(_)), "{outcome:?}");
        assert_eq!(late.0.tries.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_kind_without_a_runner_fails_in_words() {
        let outcome = Runners::default().run(&call("fax")).await;
        assert_eq!(
            outcome,
            EffectOutcome::Failed("nothing here makes calls of kind fax".to_owned())
        );
    }
}
