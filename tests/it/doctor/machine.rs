//! What is wrong around the roles: the broker, the clock, the disk, files with secrets, processes and what they run by.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::hub::{Hub, expect, findings};
use crate::support::certs::Authority;
use crate::support::eventually;
use roadcall::node::processes::{Announced, running_now};

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

/// Puts other text into the configuration.
fn replace(hub: &Hub, from: &str, to: &str) {
    let text = std::fs::read_to_string(hub.file()).expect("read");
    assert!(text.contains(from), "{text}");
    std::fs::write(hub.file(), text.replace(from, to)).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_machine_and_its_processes_are_named() {
    let mut hub = Hub::new().await;
    hub.healthy().await;
    secrets(&hub).await;
    certificates(&hub).await;
    configurations(&hub).await;
    versions(&hub).await;
    disk(&hub).await;
    clocks(&hub).await;

    // The door died.
    hub.kill("gateway");
    hub.found(&[("process-died", "gateway")]).await;
    hub.start("gateway", &[]).await;
    hub.healthy().await;

    brokers(&mut hub).await;
}

async fn secrets(hub: &Hub) {
    let keys = hub.state().join("auth-keys.json");
    mode(&keys, 0o644);
    let subject = keys.display().to_string();
    let found = hub.found(&[("secret-open", &subject)]).await;
    assert_eq!(found[0]["do"], format!("chmod 600 {subject}"));
    mode(&keys, 0o600);
    hub.healthy().await;

    // A password in the configuration itself, which the processes don't have yet.
    let file = hub.file().display().to_string();
    let password = "[hub]\npassword = 'swordfish'\n";
    replace(hub, "[site]", &format!("{password}[site]"));
    mode(&hub.file(), 0o644);
    let mut wanted = ALL.map(|unit| ("config-other", unit)).to_vec();
    wanted.push(("secret-open", &file));
    let found = hub.found(&wanted).await;
    assert!(!json!(found).to_string().contains("swordfish"));
    mode(&hub.file(), 0o600);
    hub.found(&ALL.map(|unit| ("config-other", unit))).await;
    replace(hub, password, "");
    hub.healthy().await;

    // The configuration names a user that the broker does not know.
    let with = "[bus]\nurl = 'nats://a:swordfish@127.0.0.1:";
    replace(hub, "[bus]\nurl = 'nats://127.0.0.1:", with);
    let found = eventually("the broker to refuse", || async {
        let found = hub.doctor();
        (found[0]["check"] == "broker-refuses").then_some(found)
    })
    .await;
    assert!(!json!(found).to_string().contains("swordfish"));
    replace(hub, with, "[bus]\nurl = 'nats://127.0.0.1:");
    hub.healthy().await;
}

/// Its processes run without the lines about it, so that they are to be told of those as well.
async fn certificates(hub: &Hub) {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(dir.path(), "ca");
    let pair = authority.sign("box", "hub.example", 40);
    let (cert, key) = (pair.cert.display(), pair.key.display().to_string());
    let lines = format!("[tls]\ncert_file = '{cert}'\nkey_file = '{key}'\n[site]");
    replace(hub, "[site]", &lines);
    mode(&pair.key, 0o600);
    let mut wanted = ALL.map(|unit| ("config-other", unit)).to_vec();
    hub.found(&wanted).await;
    wanted.push(("certificate", "tls.cert_file"));
    for (days, severity, words) in [
        (20, "warning", "expires in 20 days"),
        (-3, "critical", "has expired 3 days ago"),
    ] {
        authority.sign("box", "hub.example", days);
        mode(&pair.key, 0o600);
        let found = hub.found(&wanted).await;
        let ours = |one: &&Value| one["check"] == "certificate";
        let one = found.iter().find(ours).expect("found");
        assert_eq!(one["severity"], severity, "{one}");
        let said = one["finding"].as_str().expect("a text");
        assert!(said.contains(words), "{said}");
    }
    authority.sign("box", "hub.example", 40);
    mode(&pair.key, 0o644);
    wanted.pop();
    wanted.push(("secret-open", &key));
    hub.found(&wanted).await;
    replace(hub, &lines, "[site]");
    hub.healthy().await;
}

const ALL: [&str; 4] = [
    "roadcall-broker",
    "roadcall@all",
    "roadcall@match",
    "roadcall@gateway",
];

async fn configurations(hub: &Hub) {
    // Written, and nobody was told: what the doctor says mends it.
    let level = "[log]\nlevel = 'debug'\n";
    replace(hub, "[site]", &format!("{level}[site]"));
    hub.found(&ALL.map(|unit| ("config-other", unit))).await;
    hub.hang_up();
    hub.healthy().await;
    replace(hub, level, "");
    hub.hang_up();
    hub.healthy().await;

    // Told, and it needs a restart.
    let keep = "[snapshot]\nkeep = 4\n";
    replace(hub, "[site]", &format!("{keep}[site]"));
    hub.hang_up();
    let found = hub.found(&ALL.map(|unit| ("restart-due", unit))).await;
    let says = found[0]["finding"].as_str().expect("a text");
    assert!(says.contains("snapshot.keep"), "{says}");
    replace(hub, keep, "");
    hub.hang_up();
    hub.healthy().await;
}

/// This process stands for one of another version: it has an entry and its lock.
async fn versions(hub: &Hub) {
    let door = running_now(&hub.state());
    let door = door.iter().find(|one| one.runs == ["gateway"]);
    let mut in_force = door.expect("it runs").in_force.clone();
    in_force.version = "0.0.9".to_owned();
    let runs = vec!["gateway".to_owned()];
    let other = Announced::new(&hub.state(), runs, in_force).expect("announced");
    let found = hub.found(&[("versions", "processes")]).await;
    let says = found[0]["finding"].as_str().expect("a text");
    assert!(says.contains("0.0.9"), "{says}");
    drop(other);
    hub.healthy().await;
}

/// A small file system over the broker's store, for the doctor alone.
async fn disk(hub: &Hub) {
    let seen_by = |words: &str| {
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                words,
                "sh",
            ])
            .arg(hub.path("nats"));
        command
    };
    let mount = "mount -t tmpfs -o size=8m tmpfs \"$1\"";
    if !seen_by(mount).status().is_ok_and(|status| status.success()) {
        eprintln!("no file system can be mounted here: a full disk was not tried");
        return;
    }
    let found = expect(&[("disk-full", "broker.store_dir")], || {
        let look = hub.roadcall();
        let mut command = seen_by(&format!("{mount} && shift && exec \"$@\""));
        command
            .arg(look.get_program())
            .args(look.get_args())
            .args(["--json", "doctor"]);
        findings(&mut command)
    });
    let found = found.await;
    assert_eq!(found[0]["severity"], "critical");
    hub.healthy().await;
}

/// A library that puts the clock of the process that loads it ahead.
pub fn clock_ahead(dir: &Path, seconds: u32) -> PathBuf {
    let (source, library) = (dir.join("ahead.c"), dir.join(format!("ahead{seconds}.so")));
    let text = format!(
        "#define _GNU_SOURCE\n#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int clock_gettime(clockid_t clock, struct timespec *to) {{\n\
         int failed = syscall(SYS_clock_gettime, clock, to);\n\
         if (!failed && clock == CLOCK_REALTIME) to->tv_sec += {seconds};\n\
         return failed;\n}}\n"
    );
    std::fs::write(&source, text).expect("written");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(made.expect("what links this test is there").success());
    library
}

async fn clocks(hub: &Hub) {
    for (seconds, severity) in [(20, "warning"), (90, "critical")] {
        let library = clock_ahead(&hub.path(""), seconds);
        let found = expect(&[("clock", "clock")], || {
            let mut look = hub.roadcall();
            look.env("LD_PRELOAD", &library).args(["--json", "doctor"]);
            findings(&mut look)
        });
        let found = found.await;
        assert_eq!(found[0]["severity"], severity, "{found:?}");
    }
    hub.healthy().await;
}

async fn brokers(hub: &mut Hub) {
    // It syncs late, by a setting that only its own process has.
    hub.stop("broker");
    let lazy = ("ROADCALL__BROKER__SYNC_INTERVAL", "2m");
    hub.start("broker", &[lazy]).await;
    let wanted = [
        ("broker-lazy", "broker"),
        ("config-other", "roadcall-broker"),
    ];
    let found = hub.found(&wanted).await;
    assert!(
        found[0]["finding"]
            .as_str()
            .is_some_and(|says| says.contains("2m 0s"))
    );

    // It is not there: that is said first, and files are looked at all the same.
    hub.stop("broker");
    let keys = hub.state().join("auth-keys.json");
    mode(&keys, 0o644);
    let subject = keys.display().to_string();
    let found = hub
        .found(&[("broker-down", "broker"), ("secret-open", &subject)])
        .await;
    assert_eq!(found[0]["check"], "broker-down", "{found:?}");
    assert!(
        found[0]["do"]
            .as_str()
            .is_some_and(|line| line.starts_with("systemctl restart roadcall-broker"))
    );
    mode(&keys, 0o600);
    hub.start("broker", &[]).await;
    hub.healthy().await;
}
