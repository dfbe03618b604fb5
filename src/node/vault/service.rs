//! Keeps `keys.db` and answers for it: the roles of this site, and at the hub the depots. Who asks is the last token of the
//! subject of a role's question and the site's token in a depot's, which the broker lets nobody else use.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::escrow::Elsewhere;
use super::{
    After, BLIND, Destroyed, Erased, GATEWAY, Granted, Keys, May, NAME_LEN, Named, OPERATOR,
    OfSubject, Status, WireKey, may,
};
use crate::bus;
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::{Request, Service, depot_command};
use crate::config::Config;
use crate::node::audit_notes::{self, Said};
use crate::node::clock::Clock;
use crate::node::commands::{answer, command};
use crate::node::status::parse;
use crate::node::writer::Job;
use crate::role::audit::ledger::Note;
use crate::role::permission::{self, Permission, Scope};
use crate::role::{Code, Command, Rejection};
use crate::store;
use crate::store::keys::{Kept, KeyRow, KeyStore};

/// What roles ask.
const OF_ROLES: [&str; 5] = [
    "key.of.*",
    "key.open.*",
    "key.list.*",
    "key.destroy.*",
    "key.status.*",
];
/// What depots ask the hub.
pub(super) const ESCROW: &str = "key.escrow";
pub(super) const FIND: &str = "key.find";
pub(super) const RESTORE: &str = "key.restore";
pub(super) const ERASE: &str = "key.erase";
pub(super) const ERASED: &str = "key.erased";
/// Keys in one message.
pub(super) const PAGE: usize = 500;
/// Notes for the ledger that wait at the most.
const NOTES_MAX: usize = 100;
/// Whose use of which key is remembered as noted; beyond it a second row says it again.
const NOTED_MAX: usize = 100_000;
/// How long they are gathered.
const GATHERED_FOR: Duration = Duration::from_secs(1);

/// The keeper of a site's keys.
#[derive(Clone)]
pub struct Vault {
    store: Arc<Mutex<KeyStore>>,
    site: String,
    life: Duration,
    clock: Clock,
    elsewhere: Option<Elsewhere>,
    /// Told when the hub should get something.
    pub(super) news: Arc<Notify>,
    notes: mpsc::Sender<Note>,
    /// Who had which key: that goes into the ledger once in the life of the process.
    noted: Arc<Mutex<HashSet<(String, String)>>>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

/// Notes on their way to the ledger.
pub type NotesToCome = mpsc::Receiver<Note>;

impl Vault {
    /// For the site that `config` names.
    #[must_use]
    pub fn new(
        store: KeyStore,
        bus: &JetStream,
        config: &Config,
        clock: Clock,
    ) -> (Self, NotesToCome) {
        let (notes, to_come) = mpsc::channel(NOTES_MAX);
        let vault = Self {
            store: Arc::new(Mutex::new(store)),
            site: config.site.id.clone(),
            life: config.privacy.key_life.0,
            clock,
            elsewhere: Elsewhere::of(bus, config),
            news: Arc::default(),
            notes,
            noted: Arc::default(),
        };
        (vault, to_come)
    }

    /// Where else keys may be.
    pub(super) fn elsewhere(&self) -> Option<&Elsewhere> {
        self.elsewhere.as_ref()
    }

    /// Takes the questions that may come.
    ///
    /// # Errors
    /// The server does not take the subscription.
    pub async fn listen(
        bus: &JetStream,
        service: &Service,
        config: &Config,
    ) -> Result<mpsc::Receiver<Request>, bus::Error> {
        let of_depots = [ESCROW, FIND, RESTORE, ERASE, ERASED].map(|verb| depot_command("*", verb));
        let mut names = OF_ROLES.to_vec();
        if config.is_hub() {
            names.extend(of_depots.iter().map(String::as_str));
        }
        bus.listen(service, &config.site.id, &names).await
    }

    /// Answers until the service stops.
    pub async fn run(self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            let vault = self.clone();
            // One that the hub is asked for holds up nobody.
            tokio::spawn(async move {
                let id = vault.clock.new_id();
                let reply = match command(&request, id) {
                    Ok(command) => vault.reply(&request, &command).await,
                    Err(rejection) => Err(rejection),
                };
                answer(&request, id, reply, vault.clock).await;
            });
        }
    }

    async fn reply(&self, request: &Request, command: &Command) -> Result<Value, Rejection> {
        let tokens: Vec<&str> = request.subject.split('.').collect();
        // svc.roadcall.<site>.key.<verb>.<who>, or svc.roadcall.hub.depot.<site>.key.<verb>
        match tokens[..] {
            [_, _, _, "key", verb, who] => self.role(verb, who, command).await,
            [_, _, _, "depot", site, "key", verb] => self.depot(verb, site, command).await,
            _ => Err(Rejection::new(Code::NotFound, "no such question")),
        }
    }

    /// Works on the file, away from the tasks: a commit waits for the disk.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut KeyStore) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Rejection> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let failed = |error: String| {
            tracing::error!(error, "the keys of personal data can't be worked on");
            Rejection::new(
                Code::ServiceUnavailable,
                "the keys can't be read or written; the log says why",
            )
        };
        done.await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
    }

    async fn role(&self, verb: &str, who: &str, command: &Command) -> Result<Value, Rejection> {
        let permission = match who {
            OPERATOR => Permission::AdminOps,
            _ => Permission::OpsMeasure,
        };
        permission::check(&command.caller, permission, &Scope::Open)?;
        let may = may(who);
        let denied = || {
            let message = format!("{who} has no business with personal data");
            Rejection::new(Code::AuthorizationError, message)
        };
        match (verb, may) {
            ("of", May::Read | May::SealOnly) => {
                let OfSubject { subject } = parse(&command.body)?;
                let granted = self.of(&subject).await?;
                self.note(who, command, "key of", &granted);
                Ok(told(&granted))
            }
            ("open", May::Read) => {
                let Named { key_id } = parse(&command.body)?;
                let granted = self.open(&key_id).await?;
                self.note(who, command, "key open", &granted);
                Ok(told(&granted))
            }
            ("status", May::Read) if who == OPERATOR => self.status().await,
            ("list", May::Read) if who == OPERATOR => {
                let OfSubject { subject } = parse(&command.body)?;
                let rows = self.with(move |store| store.of_subject(&subject)).await?;
                let keys: Vec<WireKey> = rows.iter().map(WireKey::of).collect();
                for key in &keys {
                    let granted = granted(key.clone());
                    self.note(who, command, "key list", &granted);
                }
                Ok(json!(Keys { keys }))
            }
            ("destroy", May::Read | May::SealOnly) if who != GATEWAY => {
                let OfSubject { subject } = parse(&command.body)?;
                let destroyed = self.destroy(&subject, false).await?;
                self.say(who, command, "key destroy", &subject);
                Ok(json!(destroyed))
            }
            _ => Err(denied()),
        }
    }

    /// How many keys there are, and whether the hub has them.
    async fn status(&self) -> Result<Value, Rejection> {
        let (site, has_hub) = (self.site.clone(), self.elsewhere.is_some());
        let status = self.with(move |store| {
            let (keys, erased) = store.counts()?;
            let waits = match has_hub {
                true => store.not_escrowed(&site, PAGE)?,
                false => Vec::new(),
            };
            Ok(Status {
                keys,
                erased,
                not_at_hub: waits.len(),
                not_at_hub_since: waits.first().map(|row| row.made_at),
            })
        });
        Ok(json!(status.await?))
    }

    /// The key to seal with for a subject: the newest that this site made, or a new one.
    async fn of(&self, subject: &str) -> Result<Granted, Rejection> {
        let known = !subject.is_empty() && subject.len() <= 64;
        if !known || (subject.contains('/') && subject != BLIND) {
            return Err(Rejection::field("subject", "is the id of nobody"));
        }
        let draw = || -> Result<_, String> {
            Ok((
                super::site_key::draw::<NAME_LEN>()?,
                super::site_key::draw()?,
            ))
        };
        let (name, secret) = draw().map_err(|why| Rejection::new(Code::InternalError, why))?;
        let fresh = KeyRow {
            key_id: BASE64URL_NOPAD.encode(&name),
            subject: subject.to_owned(),
            site: self.site.clone(),
            secret,
            made_at: self.clock.now(),
        };
        let life_ms = i64::try_from(self.life.as_millis()).unwrap_or(i64::MAX);
        let kept = self.with(move |store| {
            let kept = store.newest(&fresh.subject, &fresh.site)?;
            let lasts = |row: &KeyRow| {
                // What is searched for must be found again.
                row.subject == BLIND
                    || fresh.made_at.ms().saturating_sub(row.made_at.ms()) < life_ms
            };
            match kept {
                Kept::Key(row) if lasts(&row) => Ok((Kept::Key(row), false)),
                Kept::Erased => Ok((Kept::Erased, false)),
                _ => {
                    store.keep(std::slice::from_ref(&fresh), false)?;
                    Ok((Kept::Key(Box::new(fresh)), true))
                }
            }
        });
        let (kept, made) = kept.await?;
        if made {
            self.news.notify_one();
        }
        Ok(match kept {
            Kept::Key(row) => granted(WireKey::of(&row)),
            Kept::Erased | Kept::Unknown => erased(),
        })
    }

    /// The key of a name, from the hub where this site does not have it.
    async fn open(&self, key_id: &str) -> Result<Granted, Rejection> {
        let wanted = key_id.to_owned();
        match self.with(move |store| store.named(&wanted)).await? {
            Kept::Key(row) => return Ok(granted(WireKey::of(&row))),
            Kept::Erased => return Ok(erased()),
            Kept::Unknown => {}
        }
        let unknown = || Rejection::new(Code::NotFound, format!("no key is named {key_id}"));
        let Some(elsewhere) = &self.elsewhere else {
            return Err(unknown());
        };
        let found = elsewhere.find(key_id).await?;
        if let Some(row) = found.key.as_ref().and_then(WireKey::row) {
            // From now on it is here also when the link is not. The hub has it.
            self.with(move |store| store.keep(&[row], true)).await?;
        }
        Ok(found)
    }

    pub(super) async fn destroy(&self, subject: &str, told: bool) -> Result<Destroyed, Rejection> {
        if subject.contains('/') {
            return Err(Rejection::field("subject", "is the id of nobody"));
        }
        let (subject, now) = (subject.to_owned(), self.clock.now());
        let destroyed = self.with(move |store| {
            let destroyed = store.destroy(&subject, now, told)?;
            let left = store.of_subject(&subject)?.len();
            Ok(Destroyed { destroyed, left })
        });
        let destroyed = destroyed.await?;
        self.news.notify_one();
        Ok(destroyed)
    }

    /// What a depot asks or tells; `site` is who.
    async fn depot(&self, verb: &str, site: &str, command: &Command) -> Result<Value, Rejection> {
        let body = &command.body;
        match verb {
            "escrow" => {
                let Keys { keys } = parse(body)?;
                let rows: Option<Vec<KeyRow>> = keys.iter().map(WireKey::row).collect();
                let rows =
                    rows.ok_or_else(|| Rejection::field("keys", "has one that is no key"))?;
                if rows.iter().any(|row| row.site != site) {
                    return Err(Rejection::field("keys", "has one of another site"));
                }
                self.with(move |store| store.keep(&rows, true)).await?;
                Ok(json!({}))
            }
            "find" => {
                let Named { key_id } = parse(body)?;
                let granted = self.open(&key_id).await?;
                self.note(&format!("site {site}"), command, "key open", &granted);
                Ok(told(&granted))
            }
            "restore" => {
                let (site, After { after }) = (site.to_owned(), parse(body)?);
                let rows = self
                    .with(move |store| store.of_site(&site, &after, PAGE))
                    .await?;
                let keys: Vec<WireKey> = rows.iter().map(WireKey::of).collect();
                self.say(
                    "site",
                    command,
                    "keys restored",
                    &format!("{} keys", keys.len()),
                );
                Ok(json!(Keys { keys }))
            }
            "erase" => {
                let Erased { subjects } = parse(body)?;
                for subject in &subjects {
                    let (asked, by) = (subject.clone(), site.to_owned());
                    let keys = self.with(move |store| store.of_subject(&asked)).await?;
                    // What others sealed goes with the event that says so, which every site looks at itself.
                    if keys.iter().all(|key| key.site == by) {
                        self.destroy(subject, true).await?;
                        self.say(&format!("site {site}"), command, "key destroy", subject);
                    }
                }
                Ok(json!({}))
            }
            "erased" => {
                let After { after } = parse(body)?;
                let erased = self
                    .with(move |store| store.erased(&after, false, PAGE))
                    .await?;
                let subjects = erased.into_keys().collect();
                Ok(json!(Erased { subjects }))
            }
            _ => Err(Rejection::new(Code::NotFound, "no such question")),
        }
    }

    /// Notes in the ledger who got which key, the first time that he did.
    fn note(&self, who: &str, command: &Command, action: &str, granted: &Granted) {
        let Some(key) = &granted.key else {
            return;
        };
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= NOTED_MAX {
            noted.clear();
        }
        if noted.insert((who.to_owned(), key.key_id.clone())) {
            drop(noted);
            self.say(
                who,
                command,
                action,
                &format!("{}/{}", key.subject, key.key_id),
            );
        }
    }

    fn say(&self, who: &str, command: &Command, action: &str, about: &str) {
        let id = self.clock.new_id().to_string();
        let actor = match who {
            OPERATOR => command.actor().to_string(),
            who => format!("{} ({who})", command.actor()),
        };
        let note = audit_notes::note(&Said {
            id: &id,
            actor: &actor,
            action,
            subject: about,
        });
        if self.notes.try_send(note).is_err() {
            tracing::warn!(
                action,
                "the use of a key is not in the ledger: too many wait"
            );
        }
    }
}

fn granted(key: WireKey) -> Granted {
    Granted {
        erased: false,
        key: Some(key),
    }
}

fn erased() -> Granted {
    Granted {
        erased: true,
        key: None,
    }
}

fn told(granted: &Granted) -> Value {
    // Texts always have a JSON form.
    serde_json::to_value(granted).unwrap_or(Value::Null)
}

/// Brings notes to the audit role of this process, several at a time, until the vault is gone.
pub async fn bring_notes(jobs: mpsc::WeakSender<Job>, mut notes: NotesToCome, clock: Clock) {
    let mut some = Vec::new();
    while notes.recv_many(&mut some, NOTES_MAX).await > 0 {
        tokio::time::sleep(GATHERED_FOR).await;
        while some.len() < NOTES_MAX {
            match notes.try_recv() {
                Ok(note) => some.push(note),
                Err(_) => break,
            }
        }
        let Some(jobs) = jobs.upgrade() else {
            return;
        };
        if let Err(error) = audit_notes::tell(&jobs, std::mem::take(&mut some), clock).await {
            tracing::warn!(error, "the use of keys is not in the ledger");
        }
    }
}
