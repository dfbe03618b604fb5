//! Seeds on the disk: who may read one, and what a process without one says.

use std::os::unix::fs::PermissionsExt;

use super::Guarded;

fn one_line(words: &str) -> bool {
    let lines: Vec<&str> = words.lines().collect();
    matches!(lines[..], [first, help] if first.starts_with("error[") && help.trim_start().starts_with("help: "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_others_may_read_is_refused_and_so_is_one_that_is_not_there() {
    let site = Guarded::new("").await;
    site.json(&["queue", "list", "--json"]);
    for (name, command) in [
        ("operator", &["queue", "list"][..]),
        ("tracking", &["--role", "tracking"]),
        ("gateway", &["--role", "gateway"]),
    ] {
        let path = site.identities().join(format!("{name}.nk"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("set");
        let (code, _, words) = site.run(command);
        assert_eq!(code, Some(64), "{name}: {words}");
        assert!(
            one_line(&words) && words.contains("chmod 600"),
            "{name}: {words}"
        );
        std::fs::remove_file(&path).expect("removed");
        let (code, _, words) = site.run(command);
        assert_eq!(code, Some(64), "{name}: {words}");
        assert!(
            one_line(&words) && words.contains(&format!("{name}.nk")),
            "{name}: {words}"
        );
    }
    // What is missing is made anew; the broker learns of it by itself.
    site.init(&[]);
    crate::support::eventually("the new operator is let in", || async {
        (site.run(&["queue", "list"]).0 == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_in_without_an_identity() {
    let site = Guarded::new("").await;
    let plain = async_nats::connect(site.url()).await;
    assert!(plain.is_err(), "{plain:?}");
    let app = async_nats::ConnectOptions::with_user_and_password("app".into(), "app".into());
    assert!(app.connect(site.url()).await.is_err());
    let stranger = nkeys::KeyPair::new_user().seed().expect("a seed");
    let stranger = async_nats::ConnectOptions::with_nkey(stranger);
    assert!(stranger.connect(site.url()).await.is_err());
    assert!(site.client("reader").await.flush().await.is_ok());
    // What check says of it.
    let (_, found, words) = site.run(&["check", "--role", "tracking", "--json"]);
    let found = found.as_array().cloned().unwrap_or_default();
    let found = found.iter().find(|line| line["check"] == "identities");
    assert_eq!(
        found.map(|line| &line["status"]),
        Some(&"ok".into()),
        "{words}"
    );
}
