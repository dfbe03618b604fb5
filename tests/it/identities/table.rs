//! Every identity tries every family of subjects: only what is listed here gets anywhere, and only where it belongs.
//!
//! In each account somebody listens to everything. Each identity publishes to each subject; where that is heard, beyond its own
//! account, is what it may. A list of what is allowed stands here in full, apart from the one that the broker is configured by.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;

use super::{Guarded, ROLES, everybody};
use crate::support::free_port;

/// What is heard where: subject, who may, in which account that is heard.
#[derive(Default)]
struct Table(BTreeMap<(String, String), BTreeSet<String>>);

impl Table {
    /// A subject that these may use; what they send is heard at `at`.
    fn row(&mut self, subject: &str, who: &[&str], at: &str) {
        let who = who.iter().filter(|who| account_of(who) != at);
        let there = self.0.entry((subject.to_owned(), at.to_owned()));
        there.or_default().extend(who.map(|who| (*who).to_owned()));
    }

    /// One of the site's account.
    fn site(&mut self, subject: &str, who: &[&str]) {
        self.row(subject, who, "RC");
    }

    /// One that is of no use to anybody but those of the site's account, who are operators.
    fn nobody(&mut self, subject: &str) {
        self.site(subject, &[]);
    }
}

fn account_of(name: &str) -> String {
    match name {
        "operator" => "RC".to_owned(),
        name => name.to_uppercase(),
    }
}

fn roles() -> Vec<&'static str> {
    ROLES.iter().map(|(role, ..)| *role).collect()
}

fn all_but(left_out: &[&str]) -> Vec<&'static str> {
    everybody()
        .filter(|name| !left_out.contains(name))
        .collect()
}

/// What each role has for itself.
fn of_role(table: &mut Table, (role, queue, service, command): (&str, &str, &str, &str)) {
    if !service.is_empty() {
        table.site(
            &format!("roadcall.hub.{service}.Forged.k"),
            &[role, "audit"],
        );
    }
    if !queue.is_empty() {
        let consumer = |verb: &str| format!("$JS.API.CONSUMER.{verb}.EVENTS.{queue}");
        table.site(&consumer("MSG.NEXT"), &[role]);
        table.site(&consumer("RESET"), &[role]);
        table.site(&consumer("INFO"), &[role, "audit", "gateway", "reader"]);
        for verb in [
            "CREATE",
            "DURABLE.CREATE",
            "DELETE",
            "PAUSE",
            "UNPIN",
            "LEADER.STEPDOWN",
        ] {
            table.nobody(&consumer(verb));
        }
        table.site(&format!("$JS.ACK.hub.h.EVENTS.{queue}.1.1.1.1.1"), &[role]);
        table.site(&format!("dlq.{queue}.1"), &[role, "audit"]);
        for what in ["DeadLetterCreated", "DeadLetterRedriven"] {
            table.site(
                &format!("roadcall.hub.ops.{what}.{queue}"),
                &[role, "audit"],
            );
        }
        table.site(
            &format!("roadcall.hub.ops.DeadLetterPurged.{queue}"),
            &["audit"],
        );
        table.nobody(&format!("$KV.TOPOLOGY.filters.{queue}"));
    }
    table.site(&format!("$KV.TOPOLOGY.owner.{role}"), &[role]);
    let (own, svc) = (account_of(role), |name: &str| {
        format!("svc.roadcall.hub.{name}")
    });
    for question in ["status", "outcome", "outcomes"] {
        let who = ["operator", "audit", "gateway", "reader"];
        table.row(&svc(&format!("{role}.{question}")), &who, &own);
    }
    table.row(&svc(command), &["operator", "gateway"], &own);
    table.row(&svc(&format!("{role}.snapshot")), &["operator"], &own);
    // To its key it may ask the way, and nobody for it.
    table.row(
        &svc(&format!("key.give.{role}")),
        &[role, "operator"],
        "AUDIT",
    );
    table.row("$SRV.PING", &["operator"], &own);
}

/// What several have.
fn of_many(table: &mut Table) {
    let (looks, roles) = (all_but(&["operator"]), roles());
    table.site("$JS.API.INFO", &looks);
    let streams = [
        "EVENTS",
        "ADVISORIES",
        "API_CALLS",
        "CARRY",
        "DLQ",
        "KV_REPLAYS",
        "KV_TOPOLOGY",
        "OBJ_SNAPSHOTS",
        "OBJ_SNAPSHOTS_depot-a",
    ];
    for stream in streams {
        table.site(&format!("$JS.API.STREAM.INFO.{stream}"), &looks);
    }
    for consumer in [
        "ADVISORIES.audit-advisories",
        "API_CALLS.audit-api-calls",
        "EVENTS.src-depot-a",
    ] {
        table.site(&format!("$JS.API.CONSUMER.INFO.{consumer}"), &looks);
    }
    for stream in ["EVENTS", "DLQ", "KV_REPLAYS", "KV_TOPOLOGY"] {
        table.site(&format!("$JS.API.DIRECT.GET.{stream}"), &looks);
    }
    table.site(
        "$JS.API.DIRECT.GET.KV_TOPOLOGY.$KV.TOPOLOGY.owner.match",
        &looks,
    );
    for subject in [
        "$JS.API.DIRECT.GET.OBJ_SNAPSHOTS",
        "$O.SNAPSHOTS.M.x",
        "$O.SNAPSHOTS.C.x",
        "$JS.API.STREAM.PURGE.OBJ_SNAPSHOTS",
    ] {
        table.site(subject, &roles);
    }
    for what in ["AlarmRaised", "AlarmCleared"] {
        table.site(&format!("roadcall.hub.ops.{what}.k"), &roles);
    }
    let queued = ROLES.iter().filter(|(_, queue, ..)| !queue.is_empty());
    let queued: Vec<&str> = queued.map(|(role, ..)| *role).collect();
    for what in ["ReplayCompleted", "ReplayCancelled"] {
        table.site(&format!("roadcall.hub.ops.{what}.k"), &queued);
    }
    table.site("$KV.REPLAYS.progress.k", &queued);
    let mut tell = roles.clone();
    tell.push("operator");
    table.row("svc.roadcall.hub.ledger.note", &tell, "AUDIT");
    for name in ["alarm.list", "replay.status", "site.list", "audit.verify"] {
        table.row(
            &format!("svc.roadcall.hub.{name}"),
            &["operator", "gateway", "reader"],
            "AUDIT",
        );
    }
    table.row(
        "svc.roadcall.hub.key.give.gateway",
        &["gateway", "operator"],
        "AUDIT",
    );
    table.row(
        "svc.roadcall.hub.notification.send_otp",
        &["auth", "operator", "gateway"],
        "NOTIFICATIONS",
    );
}

/// What the audit role has beyond the others.
fn of_audit(table: &mut Table) {
    for subject in [
        "carry.depot-a.incident.IncidentCreated.k",
        "dlq.other-queue.1",
        "$KV.REPLAYS.job.k",
        "$KV.TOPOLOGY.rule.k",
        "$JS.API.DIRECT.GET.CARRY",
        "roadcall.hub.ops.ReplayStarted.k",
        "roadcall.hub.ops.SiteReported.hub",
        "roadcall.hub.other.Forged.k",
        "$JS.API.CONSUMER.MSG.NEXT.ADVISORIES.audit-advisories",
        "$JS.API.CONSUMER.RESET.API_CALLS.audit-api-calls",
        "$JS.ACK.hub.h.ADVISORIES.audit-advisories.1.1.1.1.1",
        "$JS.API.CONSUMER.RESET.EVENTS.src-depot-a",
        "$JS.API.DIRECT.GET.OBJ_SNAPSHOTS_depot-a",
        "$O.SNAPSHOTS_depot-a.M.x",
        "$JS.API.STREAM.PURGE.OBJ_SNAPSHOTS_depot-a",
        "rc.reply.hub.depot-a.k",
        "svc.roadcall.depot-a.site.resend",
    ] {
        table.site(subject, &["audit"]);
    }
    // What others tell it, and nobody else.
    table.row(
        "svc.roadcall.hub.depot.depot-a.resend",
        &["operator"],
        "AUDIT",
    );
    table.row("svc.roadcall.hub.audit.forgotten", &["operator"], "AUDIT");
    table.row("rc.reply.depot-a.k", &["operator"], "AUDIT");
}

/// What nobody has who is not in the site's account.
fn of_nobody(table: &mut Table) {
    for stream in ["EVENTS", "DLQ", "KV_TOPOLOGY", "OBJ_SNAPSHOTS", "CARRY"] {
        for verb in [
            "CREATE",
            "UPDATE",
            "DELETE",
            "PURGE",
            "MSG.GET",
            "MSG.DELETE",
            "SNAPSHOT",
            "RESTORE",
            "LEADER.STEPDOWN",
        ] {
            if (verb, stream) != ("PURGE", "OBJ_SNAPSHOTS") {
                table.nobody(&format!("$JS.API.STREAM.{verb}.{stream}"));
            }
        }
    }
    for subject in [
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.CONSUMER.NAMES.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS.spy",
        "$JS.API.CONSUMER.RESET.EVENTS.src-depot-b",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.other-queue",
        "$JS.API.DIRECT.GET.ADVISORIES",
        "$JS.API.META.LEADER.STEPDOWN",
        "$JS.API.ACCOUNT.PURGE.RC",
        // The same by the domain's name.
        "$JS.hub.API.STREAM.DELETE.EVENTS",
        "$JS.hub.API.STREAM.INFO.EVENTS",
        "$JS.depot-a.API.CONSUMER.RESET.EVENTS.src-hub",
        "$JS.FC.hub.x.EVENTS.src-depot-a.1",
        "$JSC.R.depot-a.x.EVENTS.src-hub.x",
        // Other sites' events, commands to other sites, what links are made of.
        "roadcall.depot-a.incident.IncidentCreated.k",
        "roadcall.depot-a.ops.SiteReported.depot-a",
        "svc.roadcall.depot-a.incident.create",
        "svc.roadcall.depot-b.site.resend",
        "rc.src.hub.depot-a",
        "rc.src.depot-a",
        "rc.reply.hub.depot-b.k",
        "$KV.TOPOLOGY.k",
        "$KV.OTHER.k",
        "$O.OTHER.M.k",
        "_INBOX.someone.k",
        "_R_.someone.k",
        "$SYS.REQ.SERVER.PING.STATSZ",
        "$SYS.REQ.ACCOUNT.RC.CONNZ",
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.k",
        "$JS.EVENT.ADVISORY.API",
        "other.k",
    ] {
        table.nobody(subject);
    }
    // Who has which leader everybody may hear: a new one counts as a new connection.
    for name in all_but(&["operator"]) {
        let elected = "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.EVENTS.k";
        table.row(elected, &["operator"], &account_of(name));
    }
}

fn table() -> Table {
    let mut table = Table::default();
    ROLES.iter().for_each(|role| of_role(&mut table, *role));
    of_many(&mut table);
    of_audit(&mut table);
    of_nobody(&mut table);
    table
}

/// What is heard in an account, as `WHO SUBJECT`.
async fn heard(listener: &mut async_nats::Subscriber) -> Vec<(String, String)> {
    let mut heard = Vec::new();
    listener.unsubscribe().await.expect("said");
    while let Some(message) = listener.next().await {
        let said = String::from_utf8_lossy(&message.payload).into_owned();
        if let Some(who) = said.strip_prefix("by ") {
            heard.push((who.to_owned(), message.subject.to_string()));
        }
    }
    heard
}

/// To the server and back: it has dealt with everything that was sent before, and what it had for this client is here.
async fn round_trip(client: &async_nats::Client) {
    let to = client.new_inbox();
    let mut own = client.subscribe(to.clone()).await.expect("subscribed");
    client.publish(to, "back".into()).await.expect("said");
    let patience = std::time::Duration::from_secs(30);
    let came = tokio::time::timeout(patience, own.next()).await;
    assert!(
        came.is_ok_and(|message| message.is_some()),
        "no answer from the server"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_listed_gets_anywhere() {
    let doors = format!(
        "leaf_listen = '127.0.0.1:{}'\nleaf_url = ['nats-leaf://127.0.0.1:1']",
        free_port()
    );
    let site = Guarded::new(&doors).await;
    // A depot that the hub knows: what is asked of it, and what is kept of it.
    let file = site.dir.path().join("depot-a.toml").display().to_string();
    site.json(&["site", "add", "depot-a", "--out", &file, "--json"]);
    let mut clients = BTreeMap::new();
    let mut listeners = Vec::new();
    for name in everybody() {
        let client = site.client(name).await;
        for subject in [
            ">", "$JS.>", "$SRV.>", "$KV.>", "$O.>", "$SYS.>", "_INBOX.>",
        ] {
            let listener = client.subscribe(subject).await.expect("subscribed");
            listeners.push((account_of(name), listener));
        }
        round_trip(&client).await;
        clients.insert(name, client);
    }
    let table = table();
    let subjects: BTreeSet<&str> = table
        .0
        .keys()
        .map(|(subject, _)| subject.as_str())
        .collect();
    // Who tried what: what is not empty is refused by those calls that would delete something.
    for (name, client) in &clients {
        for subject in &subjects {
            let said = format!("by {name}");
            client
                .publish(subject.to_string(), said.into())
                .await
                .expect("said");
        }
        round_trip(client).await;
    }
    for client in clients.values() {
        round_trip(client).await;
    }
    let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (account, listener) in &mut listeners {
        for (who, subject) in heard(listener).await {
            if account_of(&who) != *account {
                found
                    .entry((subject, account.clone()))
                    .or_default()
                    .insert(who);
            }
        }
    }
    let nothing = BTreeSet::new();
    let keys: BTreeSet<_> = table.0.keys().chain(found.keys()).collect();
    let mut wrong = Vec::new();
    for key in keys {
        let (is, should) = (
            found.get(key).unwrap_or(&nothing),
            table.0.get(key).unwrap_or(&nothing),
        );
        let (more, less): (Vec<_>, Vec<_>) = (
            is.difference(should).collect(),
            should.difference(is).collect(),
        );
        if !more.is_empty() || !less.is_empty() {
            wrong.push(format!(
                "{} at {}: may not {more:?}, can't {less:?}",
                key.0, key.1
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        table.0.len(),
        wrong.join("\n")
    );
    assert!(subjects.len() > 250, "{}", subjects.len());
}
