//! What each identity may: the services of the site's account that it gets, one by one (BROKER 9), and those of other roles.
//!
//! Nothing is here because it might be of use: what is missing fails without a word, so a test runs a whole site on it, and
//! another tries every identity with every family of subjects. No two imports of one account overlap: what is published under
//! both would come twice.

use std::collections::BTreeSet;

use super::otp;
use super::registry;
use super::resend::{OF_DEPOT, RESEND};
use super::status::{outcome_in, outcomes_in, status_of};
use super::vault::OF_DEPOTS;
use crate::broker::identities::{Account, Identities, Import, Kind, SITE_ACCOUNT};
use crate::bus::jetstream::service::{command_subject, depot_command};
use crate::bus::links::{HUB, Link};
use crate::bus::{ADVISORIES, ADVISORY_QUEUE, API_CALLS, API_QUEUE, CARRY, DLQ, EVENTS};
use crate::bus::{REPLAYS_STREAM, TOPOLOGY_STREAM};
use crate::config::Config;
use crate::event::Source;
use crate::ops::identities::{GATEWAY, OPERATOR, Public, READER};
use crate::role::audit::ledger::NOTE;
use crate::role::permission::Permission;
use crate::role::{CommandSpec, RoleName};

/// The object store of snapshots, as a stream.
const SNAPSHOTS: &str = "OBJ_SNAPSHOTS";

/// Every identity that a site has.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let roles = RoleName::BUILT.iter().map(|role| role.as_str());
    roles.chain([GATEWAY, OPERATOR, READER]).collect()
}

/// The name of an identity's account.
#[must_use]
pub fn account_of(name: &str) -> String {
    match name {
        OPERATOR => SITE_ACCOUNT.to_owned(),
        name => name.to_uppercase(),
    }
}

/// Whom the broker of this configuration lets in, and what each may.
#[must_use]
pub fn identities(config: &Config, public: &Public) -> Identities {
    let grants = Grants::new(config);
    let keys = |name: &str| public.get(name).cloned().unwrap_or_default();
    let account = |name: &str, imports: Imports| Account {
        name: account_of(name),
        users: keys(name),
        imports: imports.0.into_iter().collect(),
    };
    let roles = RoleName::BUILT.iter();
    let mut accounts: Vec<Account> = roles
        .map(|role| account(role.as_str(), grants.role(*role)))
        .collect();
    accounts.push(account(GATEWAY, grants.gateway()));
    accounts.push(account(READER, grants.reader()));
    Identities {
        operators: keys(OPERATOR),
        imports: grants.site().0.into_iter().collect(),
        accounts,
    }
}

/// What an account gets.
#[derive(Default)]
struct Imports(BTreeSet<Import>);

impl Imports {
    fn add(&mut self, from: &str, kind: Kind, subject: impl Into<String>) {
        self.0.insert(Import {
            from: from.to_owned(),
            subject: subject.into(),
            kind,
        });
    }

    /// A service of the site's account that answers once.
    fn one(&mut self, subject: impl Into<String>) {
        self.add(SITE_ACCOUNT, Kind::One, subject);
    }

    /// One that answers many times.
    fn many(&mut self, subject: impl Into<String>) {
        self.add(SITE_ACCOUNT, Kind::Many, subject);
    }

    fn infos(&mut self, streams: &[&str]) {
        for stream in streams {
            self.one(format!("$JS.API.STREAM.INFO.{stream}"));
        }
    }

    fn reads(&mut self, stream: &str) {
        self.many(format!("$JS.API.DIRECT.GET.{stream}"));
    }

    /// Takes what a consumer hands out.
    fn takes(&mut self, site: &str, stream: &str, consumer: &str) {
        self.one(format!("$JS.API.CONSUMER.RESET.{stream}.{consumer}"));
        self.many(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"));
        self.one(format!("$JS.ACK.{site}.*.{stream}.{consumer}.>"));
    }

    /// Puts objects into a bucket and takes old ones away.
    fn keeps(&mut self, bucket: &str) {
        self.one(format!("$O.{bucket}.>"));
        self.reads(&format!("OBJ_{bucket}"));
        self.one(format!("$JS.API.STREAM.PURGE.OBJ_{bucket}"));
    }
}

/// What a role answers.
struct Answers {
    role: RoleName,
    commands: Vec<CommandSpec>,
}

impl Answers {
    /// The first words of its commands; its own name is one, for questions about itself.
    fn entities(&self) -> BTreeSet<&str> {
        let commands = self.commands.iter();
        let of = |spec: &CommandSpec| spec.name.split('.').next().unwrap_or(spec.name);
        let mut entities: BTreeSet<&str> = commands.map(of).collect();
        entities.insert(self.role.as_str());
        entities
    }

    fn account(&self) -> String {
        account_of(self.role.as_str())
    }
}

struct Grants<'c> {
    site: &'c str,
    hub: bool,
    linked: bool,
    depots: Vec<&'c str>,
    answers: Vec<Answers>,
}

impl<'c> Grants<'c> {
    fn new(config: &'c Config) -> Self {
        let built = RoleName::BUILT.into_iter();
        let answers = built.filter_map(|role| {
            let commands = registry::build(config, role)?.commands().to_vec();
            Some(Answers { role, commands })
        });
        Self {
            site: &config.site.id,
            hub: config.is_hub(),
            linked: !config.hub.url.is_empty(),
            depots: config.depots.iter().map(|it| it.site.as_str()).collect(),
            answers: answers.collect(),
        }
    }

    fn command(&self, command: &str) -> String {
        command_subject(self.site, command)
    }

    /// What everybody needs who connects at all, and what the check of the topology looks at.
    fn looks(&self) -> Imports {
        let mut get = Imports::default();
        get.one("$JS.API.INFO");
        get.infos(&[EVENTS, ADVISORIES, API_CALLS, CARRY, DLQ]);
        get.infos(&[REPLAYS_STREAM, TOPOLOGY_STREAM, SNAPSHOTS]);
        get.one(format!(
            "$JS.API.CONSUMER.INFO.{ADVISORIES}.{ADVISORY_QUEUE}"
        ));
        get.one(format!("$JS.API.CONSUMER.INFO.{API_CALLS}.{API_QUEUE}"));
        for depot in &self.depots {
            get.infos(&[&format!("{SNAPSHOTS}_{depot}")]);
            self.link_info(&mut get, &Link::down(depot, Vec::new()));
        }
        if self.linked {
            self.link_info(&mut get, &Link::up(self.site));
        }
        for stream in [EVENTS, DLQ, REPLAYS_STREAM, TOPOLOGY_STREAM] {
            get.reads(stream);
        }
        // A single key of the bucket, by its subject.
        get.one(format!("$JS.API.DIRECT.GET.{TOPOLOGY_STREAM}.>"));
        let elected = format!("$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.{EVENTS}.*");
        get.add(SITE_ACCOUNT, Kind::Stream, elected);
        get
    }

    fn link_info(&self, get: &mut Imports, link: &Link) {
        get.one(format!(
            "$JS.API.CONSUMER.INFO.{EVENTS}.{}",
            link.consumer()
        ));
    }

    fn queue_info(&self, get: &mut Imports, role: RoleName) {
        if let Some(queue) = role.queue() {
            get.one(format!("$JS.API.CONSUMER.INFO.{EVENTS}.{queue}"));
        }
    }

    fn role(&self, role: RoleName) -> Imports {
        let site = self.site;
        let mut get = self.looks();
        self.queue_info(&mut get, role);
        if let Some(queue) = role.queue() {
            get.takes(site, EVENTS, queue);
        }
        get.one(format!("$KV.TOPOLOGY.owner.{role}"));
        get.keeps("SNAPSHOTS");
        if role == RoleName::Audit {
            self.audit(&mut get);
            return get;
        }
        if let Some(source) = source_of(role) {
            get.one(format!("roadcall.{site}.{}.>", source.service()));
        }
        let alarms = ["AlarmRaised", "AlarmCleared"];
        let ops = |what: &str, key: &str| format!("roadcall.{site}.ops.{what}.{key}");
        alarms.iter().for_each(|what| get.one(ops(what, "*")));
        if let Some(queue) = role.queue() {
            get.one(format!("dlq.{queue}.>"));
            get.one(ops("DeadLetterCreated", queue));
            get.one(ops("DeadLetterRedriven", queue));
            get.one(ops("ReplayCompleted", "*"));
            get.one(ops("ReplayCancelled", "*"));
            get.one("$KV.REPLAYS.progress.>");
        }
        let audit = account_of(RoleName::Audit.as_str());
        get.add(&audit, Kind::One, self.command(NOTE));
        get.add(&audit, Kind::One, self.keys(role.as_str()));
        if role == RoleName::Auth {
            let notifications = account_of(RoleName::Notifications.as_str());
            get.add(&notifications, Kind::One, self.command(otp::COMMAND));
        }
        get
    }

    /// The questions about keys that one asks of whoever has them.
    fn keys(&self, name: &str) -> String {
        self.command(&format!("key.*.{name}"))
    }

    /// It publishes under every source of its site, makes letters for every queue, writes jobs and switches, looks at everybody,
    /// and speaks for the site to others.
    fn audit(&self, get: &mut Imports) {
        let site = self.site;
        for subject in ["carry.>", "dlq.>", "$KV.REPLAYS.>", "$KV.TOPOLOGY.rule.>"] {
            get.one(subject);
        }
        get.one(format!("roadcall.{site}.>"));
        get.takes(site, ADVISORIES, ADVISORY_QUEUE);
        get.takes(site, API_CALLS, API_QUEUE);
        get.reads(CARRY);
        let others = self.answers.iter().filter(|it| it.role != RoleName::Audit);
        for other in others {
            self.queue_info(get, other.role);
            self.questions(get, other);
        }
        for depot in &self.depots {
            let link = Link::down(depot, Vec::new());
            get.one(format!(
                "$JS.API.CONSUMER.RESET.{EVENTS}.{}",
                link.consumer()
            ));
            get.keeps(&format!("SNAPSHOTS_{depot}"));
            // The answer comes over the link under a subject that names the depot, and under no other (BROKER 1).
            get.add(SITE_ACCOUNT, Kind::Stream, format!("rc.reply.{depot}.>"));
        }
        if self.hub {
            // With the reply subject that the depot gave, which the role looks at before it answers.
            for verb in [RESEND, OF_DEPOTS] {
                let asked = self.command(&depot_command("*", verb));
                get.add(SITE_ACCOUNT, Kind::Stream, asked);
            }
        }
        if self.linked {
            get.add(
                SITE_ACCOUNT,
                Kind::Stream,
                format!("rc.reply.{HUB}.{site}.>"),
            );
        }
    }

    /// What a role says of itself.
    fn questions(&self, get: &mut Imports, of: &Answers) {
        for question in [
            status_of(of.role),
            outcome_in(of.role),
            outcomes_in(of.role),
        ] {
            get.add(&of.account(), Kind::One, self.command(&question));
        }
    }

    fn gateway(&self) -> Imports {
        let mut get = self.looks();
        for of in &self.answers {
            self.queue_info(&mut get, of.role);
            self.questions(&mut get, of);
            // What only the nodes themselves say is nobody's at the door.
            let commands = of.commands.iter();
            let outside = commands.filter(|spec| spec.permission != Permission::OpsMeasure);
            for spec in outside {
                get.add(&of.account(), Kind::One, self.command(spec.name));
            }
        }
        let audit = account_of(RoleName::Audit.as_str());
        get.add(&audit, Kind::One, self.keys(GATEWAY));
        get
    }

    /// The archive, letters, jobs and switches, how queues stand, what roles say of themselves and the audit role of the site.
    fn reader(&self) -> Imports {
        let mut get = self.looks();
        for of in &self.answers {
            self.queue_info(&mut get, of.role);
            self.questions(&mut get, of);
            let reads = |spec: &&CommandSpec| {
                of.role == RoleName::Audit
                    && !spec.mutates
                    && spec.permission != Permission::OpsMeasure
            };
            for spec in of.commands.iter().filter(reads) {
                get.add(&of.account(), Kind::One, self.command(spec.name));
            }
        }
        get
    }

    /// What the site's account gets: the roles' answers, to operators here and to whoever asks over a link.
    fn site(&self) -> Imports {
        let mut get = Imports::default();
        for of in &self.answers {
            let account = of.account();
            for entity in of.entities() {
                get.add(&account, Kind::One, self.command(&format!("{entity}.*")));
            }
            get.add(&account, Kind::Many, "$SRV.>");
        }
        let audit = account_of(RoleName::Audit.as_str());
        get.add(&audit, Kind::One, self.command("key.>"));
        for depot in &self.depots {
            get.add(&audit, Kind::Stream, command_subject(depot, OF_DEPOT));
            get.add(&audit, Kind::Stream, format!("rc.reply.{HUB}.{depot}.>"));
        }
        if self.linked {
            for verb in [RESEND, OF_DEPOTS] {
                let asked = command_subject(HUB, &depot_command(self.site, verb));
                get.add(&audit, Kind::Stream, asked);
            }
        }
        get
    }
}

/// Under which source a role publishes; `roadcall.ops` is everybody's.
fn source_of(role: RoleName) -> Option<Source> {
    match role {
        RoleName::Incident => Some(Source::Incident),
        RoleName::Vendor => Some(Source::Vendor),
        RoleName::Match => Some(Source::Match),
        RoleName::Tracking => Some(Source::Tracking),
        RoleName::Payments => Some(Source::Payment),
        RoleName::Telephony => Some(Source::Telephony),
        RoleName::Auth => Some(Source::Auth),
        RoleName::Kb => Some(Source::Kb),
        RoleName::Config => Some(Source::Config),
        RoleName::Notifications | RoleName::Reporting | RoleName::Audit => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::snapshot::keeper::wish_of;

    /// Whether some subject matches both.
    fn overlap(one: &str, other: &str) -> bool {
        let (mut one, mut other) = (one.split('.'), other.split('.'));
        loop {
            match (one.next(), other.next()) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                _ => return false,
            }
        }
    }

    #[test]
    fn no_two_imports_of_one_account_overlap() {
        let mut config = Config::default();
        for depot in ["depot-a", "depot-b"] {
            config.depots.push(crate::config::depots::Depot {
                site: depot.to_owned(),
                password: "x".to_owned(),
                seed: String::new(),
                older: Vec::new(),
                down: Vec::new(),
                roles: Vec::new(),
                since: crate::event::Ts::from_ms(0),
            });
        }
        let all = identities(&config, &Public::new());
        assert_eq!(all.accounts.len(), names().len() - 1);
        for account in &all.accounts {
            for (at, one) in account.imports.iter().enumerate() {
                for other in &account.imports[at + 1..] {
                    let both = (&one.subject, &other.subject);
                    assert!(!overlap(both.0, both.1), "{}: {both:?}", account.name);
                }
            }
        }
    }

    #[test]
    fn a_snapshot_is_asked_for_under_the_roles_own_name() {
        // The site's account gets `<role>.*`; nothing else lets an operator ask.
        assert_eq!(wish_of(RoleName::Match), "match.snapshot");
    }
}
