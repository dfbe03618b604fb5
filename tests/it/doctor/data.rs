//! What is wrong with the roles' databases and with their snapshots.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::hub::{Hub, expect, findings, healthy};
use super::machine::clock_ahead;
use crate::snapshots::{create, state};
use crate::support::eventually_within;
use crate::support::processes::Processes;
use roadcall::bus::TOPOLOGY_BUCKET;
use roadcall::bus::jetstream::JetStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_databases_are_named() {
    let mut hub = Hub::new().await;
    hub.healthy().await;
    let bus = hub.connect().await;
    owner(&hub, &bus).await;
    let path = hub.state().join("match.db");

    let set = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("set");
    };
    let before = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    set(0o400);
    hub.found(&[("database-mode", "match")]).await;
    set(before);
    hub.healthy().await;

    hub.stop("match");
    let down = ("role-down", "match");
    let aside = hub.path("aside");
    std::fs::rename(&path, &aside).expect("moved");
    hub.found(&[down, ("database-missing", "match")]).await;
    std::fs::write(
        &path,
        "no database, and long enough to be looked at as one".repeat(99),
    )
    .expect("written");
    hub.found(&[down, ("database-damaged", "match")]).await;
    std::fs::rename(&aside, &path).expect("moved back");

    let connection = rusqlite::Connection::open(&path).expect("opened");
    let known: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("read");
    let set = |version: i64| {
        let set = connection.pragma_update(None, "user_version", version);
        set.expect("set");
    };
    set(99_000);
    let found = hub.found(&[down, ("database-newer", "match")]).await;
    assert!(json!(found).to_string().contains("RC0315"));
    set(known);
    drop(connection);
    hub.start("match", &[]).await;
    hub.healthy().await;
}

/// The broker gives the queue to another database.
async fn owner(hub: &Hub, bus: &JetStream) {
    let key = "owner.match";
    let ours = bus.kv_get(TOPOLOGY_BUCKET, key).await.expect("asked");
    let ours = ours.expect("there").to_vec();
    let mut other: Value = serde_json::from_slice(&ours).expect("JSON");
    other["storeId"] = json!("00000000-0000-7000-8000-000000000007");
    let other = other.to_string().into_bytes();
    bus.kv_put(TOPOLOGY_BUCKET, key, other).await.expect("put");
    let found = hub.found(&[("queue-owner", "match-queue")]).await;
    assert!(
        json!(found)
            .to_string()
            .contains("queue adopt match-queue --yes")
    );
    bus.kv_put(TOPOLOGY_BUCKET, key, ours).await.expect("put");
    hub.healthy().await;
}

/// A site of one role that takes no snapshots by itself, and whose operator wants one each minute.
fn one_role(site: &mut Processes) -> PathBuf {
    let file = site.dir.path().join("roadcall.toml");
    let text = "[site]\nroles = ['vendor']\n[snapshot]\nscheduled = false\nevery = '1m'\n";
    std::fs::write(&file, text).expect("written");
    site.arguments = vec!["--config".to_owned(), file.display().to_string()];
    file
}

async fn begun_long_ago(site: &Processes) {
    let bus = site.connect().await;
    let key = "owner.vendor";
    let owner = bus.kv_get(TOPOLOGY_BUCKET, key).await.expect("asked");
    let mut owner: Value = serde_json::from_slice(&owner.expect("there")).expect("JSON");
    owner["since"] = json!("2026-01-01T00:00:00.000Z");
    let owner = owner.to_string().into_bytes();
    bus.kv_put(TOPOLOGY_BUCKET, key, owner).await.expect("put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_are_not_taken_are_named() {
    let mut site = Processes::new();
    one_role(&mut site);
    site.apply_topology();
    site.start("vendor");
    site.role_ready("vendor").await;
    let look = || {
        let mut command = site.roadcall();
        let state = state(&site, "vendor");
        command.arg("--state-dir").arg(state);
        command
    };
    let doctor = || findings(look().args(["--json", "doctor"]));
    begun_long_ago(&site).await;
    expect(&[("snapshot-none", "vendor")], doctor).await;
    create(&site, "vendor");
    healthy(look).await;

    // The role handles an event that no snapshot has.
    let id = "00000000-0000-7000-8000-000000000001";
    let rated = json!({
        "incidentId": id, "vendorId": id, "driverId": id, "stars": 5, "ratedBy": "driver", "ratedAt": "2026-01-01T00:00:00Z",
    });
    let bus = site.connect().await;
    let publish = [
        "event",
        "publish",
        "--type",
        "IncidentRated",
        "--source",
        "roadcall.incident",
        "--entity",
        id,
        "--detail",
        &rated.to_string(),
    ];
    site.json(&publish);
    eventually_within(30, "the role to have it", || async {
        use roadcall::bus::Bus;
        (bus.queue("vendor-queue").await.ok()?.ack_floor_seq > 0).then_some(())
    })
    .await;
    healthy(look).await;
    // An hour later nobody has taken one; that it is another hour here than at the broker is found as well.
    let library = clock_ahead(site.dir.path(), 3_600);
    let later = || {
        let mut command = look();
        command.env("LD_PRELOAD", &library);
        findings(command.args(["--json", "doctor"]))
    };
    let clock = ("clock", "clock");
    expect(&[clock, ("snapshot-old", "vendor")], later).await;
    create(&site, "vendor");
    expect(&[clock], later).await;
    healthy(look).await;
}
