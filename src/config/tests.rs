//! Layers, origins, problems, and the commented example against the built-in defaults.

use std::collections::BTreeMap;
use std::path::Path;

use super::units::Span;
use super::*;

fn write(dir: &Path, file: &str, text: &str) -> PathBuf {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
    std::fs::write(&path, text).expect("written");
    path
}

fn load_with(files: Vec<PathBuf>, roles: &[&str]) -> Result<Loaded, Vec<Problem>> {
    Loaded::load(&Sources {
        files,
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..Sources::default()
    })
}

fn load(text: &str) -> Result<Loaded, Vec<Problem>> {
    let dir = tempfile::tempdir().expect("a directory");
    load_with(vec![write(dir.path(), "roadcall.toml", text)], &[])
}

fn row(loaded: &Loaded, key: &str) -> (String, String) {
    let row = loaded.origins.iter().find(|row| row.0 == key);
    let (_, value, origin) = row.cloned().expect("listed");
    (value, origin)
}

#[test]
fn later_layers_win_and_say_where_a_value_came_from() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let main = write(
        dir,
        "roadcall.toml",
        "[site]\nid = 'depot-a'\nprofile = 'prod'\n[engine]\nretry_delay = '1s'\nack_wait = '1s'\nmax_deliver = 5",
    );
    write(dir, "conf.d/20.toml", "[engine]\nretry_delay = '3s'");
    let second = write(
        dir,
        "conf.d/10.toml",
        "[engine]\nretry_delay = '2s'\nack_wait = '2s'",
    );
    write(dir, "conf.d/30.toml.bak", "no TOML at all");
    write(dir, "site.toml", "[engine]\nretry_delay = '4s'");
    let of_role = write(dir, "role.d/match.toml", "[engine]\nretry_delay = '5s'");
    write(dir, "role.d/vendor.toml", "[engine]\nretry_delay = '6s'");
    let further = write(dir, "more/override.toml", "[engine]\nnot_yet_max = '7s'");
    let flags = vec![(
        "bus.url".to_owned(),
        "nats://joe:secret@127.0.0.1:4333".to_owned(),
    )];
    let loaded = Loaded::load(&Sources {
        files: vec![main.clone(), further.clone()],
        roles: vec!["match".to_owned()],
        flags,
        ..Sources::default()
    })
    .expect("valid");
    let at = |path: &Path| path.display().to_string();
    let both = |value: &str, origin: String| (value.to_owned(), origin);
    assert_eq!(row(&loaded, "engine.retry_delay"), both("5s", at(&of_role)));
    assert_eq!(row(&loaded, "engine.ack_wait"), both("2s", at(&second)));
    assert_eq!(row(&loaded, "engine.max_deliver"), both("5", at(&main)));
    assert_eq!(row(&loaded, "engine.not_yet_max"), both("7s", at(&further)));
    assert_eq!(
        row(&loaded, "archive.max_age"),
        both("90d", "profile prod".to_owned())
    );
    assert_eq!(
        row(&loaded, "bus.url"),
        both("nats://***@127.0.0.1:4333", "flag".to_owned())
    );
    assert_eq!(
        row(&loaded, "bus.codec"),
        both("json", "default".to_owned())
    );
    assert_eq!(loaded.config.engine.retry_delay, Span::secs(5));
    assert_eq!(loaded.files.len(), 6);
    assert_eq!(loaded.files.last(), Some(&further));

    // A command that runs no role reads no role's file; a file's own value beats the profile's.
    write(dir, "site.toml", "[archive]\nmax_age = '10d'");
    let loaded = load_with(vec![main], &[]).expect("valid");
    assert_eq!(loaded.config.engine.retry_delay, Span::secs(3));
    assert_eq!(loaded.config.archive_max_age(), Span::days(10).0);
}

#[test]
fn files_of_two_roles_in_one_process_must_agree() {
    let dir = tempfile::tempdir().expect("a directory");
    let main = write(dir.path(), "roadcall.toml", "");
    write(
        dir.path(),
        "role.d/match.toml",
        "[engine]\nbatch_max = 64\nmax_deliver = 4",
    );
    write(
        dir.path(),
        "role.d/vendor.toml",
        "[engine]\nbatch_max = 32\nmax_deliver = 4",
    );
    let problems = load_with(vec![main.clone()], &["match", "vendor"]).expect_err("differ");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key, "engine.batch_max");
    assert!(problems[0].message.contains("match.toml has another value"));
    assert!(load_with(vec![main], &["vendor"]).is_ok());
}

#[test]
fn every_problem_is_reported_at_once_with_the_nearest_key() {
    let problems = load(
        "[bus]\nulr = 'x'\nconnect_timeout = 5\n[engine]\nretry_delay = 'soon'\nack_wait = true\nbatch_max = 0\n\
         [site]\nid = 'HUB'\nprofile = 'live'\n[matching.weights]\nrating = 0.2\nprice = 0.1\n[log]\nlevel = 'inof'\n\
         [bsu]\n[sla]\ntiers = [{ name = 'One', respnse = '1m' }]",
    )
    .expect_err("wrong");
    let of = |key: &str| {
        problems
            .iter()
            .find(|problem| problem.key == key)
            .unwrap_or_else(|| panic!("{key} in {problems:#?}"))
    };
    assert_eq!(of("bus.ulr").help.as_deref(), Some("did you mean bus.url?"));
    assert!(of("bus.ulr").origin.ends_with("roadcall.toml"));
    assert!(
        of("engine.retry_delay")
            .message
            .contains("'soon' is not a duration")
    );
    assert!(of("engine.ack_wait").origin.ends_with("roadcall.toml"));
    assert!(
        of("bus.connect_timeout")
            .message
            .contains("expected a string")
    );
    assert!(
        of("engine.batch_max")
            .message
            .contains("not from 1 to 4096")
    );
    assert!(of("site.id").message.contains("'HUB'"));
    assert!(of("site.profile").message.contains("live"));
    assert!(of("matching.weights").message.contains("sum to 1.100"));
    assert!(of("matching.weights.price").help.is_some());
    assert!(of("log.level").message.contains("'inof'"));
    assert!(of("bsu").help.is_some());
    let tier = problems
        .iter()
        .find(|problem| problem.key.starts_with("sla.tiers"))
        .expect("told");
    assert!(tier.message.contains("respnse"), "{tier:?}");
}

#[test]
fn files_that_are_no_toml_or_not_there_are_named_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let main = write(dir.path(), "roadcall.toml", "[site]\nid = depot\n");
    write(dir.path(), "site.toml", "[bus]\nulr = ''\n");
    let problems = load_with(vec![main, dir.path().join("none.toml")], &[]).expect_err("wrong");
    let told: Vec<&str> = problems
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(
        told.iter().any(|message| message.starts_with("line 2: ")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|message| message.contains("does not exist")),
        "{told:?}"
    );
    assert!(problems.iter().any(|problem| problem.key == "bus.ulr"));
}

#[test]
fn ranges_of_the_domain_are_kept() {
    for (text, key) in [
        (
            "[matching]\nmax_radius_miles = 50.0",
            "matching.max_radius_miles",
        ),
        (
            "[matching]\nexpansion_factor = 1.0",
            "matching.expansion_factor",
        ),
        ("[matching]\nrounds = 11", "matching.rounds"),
        (
            "[matching]\noffer_timeout = '11m'",
            "matching.offer_timeout",
        ),
        ("[pricing]\nper_mile_cents = 0", "pricing.per_mile_cents"),
        ("[sla]\ntiers = []", "sla.tiers"),
        ("[broker]\nlisten = 'localhost'", "broker.listen"),
        ("[broker]\nsync_interval = '0s'", "broker.sync_interval"),
        ("[archive]\nreplicas = 2", "archive.replicas"),
        (
            "[incident]\narrival_factor = 0.0",
            "incident.arrival_factor",
        ),
        ("[log]\nlevel = 'info,=debug'", "log.level"),
    ] {
        let problems = load(text).expect_err(text);
        assert!(
            problems.iter().all(|problem| problem.key == key),
            "{text}: {problems:#?}"
        );
    }
    load("[log]\nlevel = 'info,roadcall::node=debug'").expect("valid");
}

/// The example has every key as a comment (`#key = value`), so that a copy of it changes nothing.
#[test]
fn the_commented_example_names_every_key_with_its_default() {
    const EXAMPLE: &str = include_str!("../../config/roadcall.toml");
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with([' ', '#']) => setting,
            _ => line,
        })
        .collect();
    let values = |text: &str| {
        let dict: Dict = toml::from_str(text).expect("the example is TOML");
        let mut values = BTreeMap::new();
        flatten("", &dict, &mut |key, value| {
            values.insert(key.to_owned(), show(value));
        });
        values
    };
    let as_it_is = load(EXAMPLE).expect("valid").config;
    assert_eq!(differences(&Config::default(), &as_it_is), [""; 0]);
    let text = uncommented.join("\n");
    let as_written = load(&text).expect("valid").config;
    assert_eq!(differences(&Config::default(), &as_written), [""; 0]);
    let named: Vec<String> = values(&text).into_keys().collect();
    let mut known = Vec::new();
    flatten("", &as_dict(&Config::default()), &mut |key, _| {
        known.push(key.to_owned());
    });
    assert_eq!(named, known);
}

#[test]
fn a_carrier_says_what_it_lacks_and_its_secrets_are_not_shown() {
    let problems = load(
        "[notifications]\nsms = 'twilio'\nemail = 'smtp'\nsmtp_host = 'mail.fleet.example'\nsmtp_tls = 'none'\npush = 'webhook'\n\
         push_secret = 'abc'\npush_secret_file = 'abc'\nlink_base = 'fleet.example'\nsms_per_hour = 0\nretry_delay = '0s'\n\
         smtp_user = 'joe'\nsmtp_password_file = 'no/such/file'",
    )
    .expect_err("wrong");
    let mut keys: Vec<&str> = problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    keys.sort_unstable();
    let named = |name: &str| format!("notifications.{name}");
    let expected = [
        "email_from",
        "link_base",
        "push_secret",
        "push_secret",
        "push_url",
        "retry_delay",
        "sms_account",
        "sms_from",
        "sms_per_hour",
        "sms_token",
        "smtp_password_file",
        "smtp_tls",
    ];
    assert_eq!(keys, expected.map(named), "{problems:?}");

    let loaded = load(
        "[notifications]\nsms = 'twilio'\nsms_account = 'AC1'\nsms_token = 'hidden'\nsms_from = '+15550001111'\n\
         smtp_password = 'hidden'\npush_secret = 'whsec_aGlkZGVu'",
    )
    .expect("valid");
    for name in ["sms_token", "smtp_password", "push_secret"] {
        assert_eq!(row(&loaded, &named(name)).0, "***");
    }
    assert_eq!(row(&loaded, "notifications.sms_token_file").0, "");
    assert!(!format!("{:?}", loaded.origins).contains("hidden"));
}

#[test]
fn an_alarm_webhook_has_a_safe_address_and_a_secret_in_a_file() {
    let wrong = |text: &str| {
        let problems = load(&format!("[audit]\n{text}")).expect_err("wrong");
        let said = problems
            .iter()
            .map(|problem| (problem.key.clone(), problem.message.clone()));
        said.collect::<Vec<_>>()
    };
    let (url, file) = ("audit.alarm_webhook_url", "audit.alarm_webhook_secret_file");
    let found = wrong("alarm_webhook_url = 'http://joe:pw@alerts.example/x'");
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, [url, file]);
    assert!(!format!("{found:?}").contains("pw"), "{found:?}");
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("secret");
    let with = format!(
        "alarm_webhook_url = 'https://joe:pw@alerts.example/x'\nalarm_webhook_secret_file = '{}'",
        secret.display()
    );
    assert!(wrong(&with)[0].1.contains("can't be read"));
    std::fs::write(&secret, "hidden").expect("written");
    let found = wrong(&with);
    assert!(
        found[0].1.contains("whsec_") && !found[0].1.contains("hidden"),
        "{found:?}"
    );
    std::fs::write(&secret, "whsec_aGlkZGVu").expect("written");
    let loaded = load(&format!("[audit]\n{with}")).expect("valid");
    assert_eq!(row(&loaded, url).0, "https://***@alerts.example/x");
}

#[test]
fn a_credential_is_a_file_of_the_service_manager_or_beside_the_configuration() {
    let text = "[bus]\ncreds = 'credential:hub.creds'\n[telephony]\nwebhook_secret_file = 'credential:phone'";
    let dir = tempfile::tempdir().expect("a directory");
    let main = write(dir.path(), "roadcall.toml", text);
    let loaded = load_with(vec![main], &[]).expect("valid");
    let secrets = dir.path().join("secrets");
    assert_eq!(
        loaded.config.bus.creds,
        secrets.join("hub.creds").display().to_string()
    );
    assert_eq!(row(&loaded, "bus.creds").0, "credential:hub.creds");

    let mut config = Config::default();
    config.bus.creds = "credential:hub.creds".to_owned();
    let mut problems = Vec::new();
    let (given, origin) = (Path::new("/run/credentials/x.service"), |_: &str| {
        String::new()
    });
    credentials::resolve(&mut config, Some(given), dir.path(), &origin, &mut problems);
    assert_eq!(
        (config.bus.creds.as_str(), problems.len()),
        ("/run/credentials/x.service/secret_hub.creds", 0)
    );

    let wrong = load("[bus]\ncreds = 'credential:../shadow'").expect_err("no name");
    assert_eq!(
        (wrong.len(), wrong[0].key.as_str()),
        (1, "bus.creds"),
        "{wrong:?}"
    );
}

#[test]
fn spans_leave_this_machine_by_https_alone() {
    for url in [
        "https://collector.example:4318",
        "http://127.0.0.1:4318",
        "http://[::1]:4318/",
        "",
    ] {
        load(&format!("[trace]\notlp_url = '{url}'")).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    }
    for url in [
        "http://collector.example:4318",
        "http://localhost.example",
        "http://127.0.0.1.example:4318",
        "http://localhost:4318@collector.example",
        "https://",
        "collector:4317",
    ] {
        let wrong = load(&format!("[trace]\notlp_url = '{url}'")).expect_err(url);
        assert_eq!(wrong[0].key, "trace.otlp_url", "{wrong:?}");
    }
    let wrong = load("[trace]\nsample_ratio = 1.5").expect_err("over 1");
    assert_eq!(wrong[0].key, "trace.sample_ratio", "{wrong:?}");
    let loaded = load("[trace]\notlp_url = 'https://us:hidden@collector.example'").expect("valid");
    assert_eq!(
        row(&loaded, "trace.otlp_url").0,
        "https://***@collector.example"
    );
}

#[test]
fn messages_leave_this_machine_by_https_alone() {
    let of = |sms: &str, push: &str| {
        load(&format!(
            "[notifications]\nsms = 'twilio'\nsms_url = '{sms}'\nsms_account = 'a'\nsms_token = 't'\nsms_from = '+15550001'\n\
             push = 'webhook'\npush_url = '{push}'\npush_secret = 'whsec_aGlkZGVu'"
        ))
    };
    of("https://api.example", "http://localhost:9000/push").expect("valid");
    let wrong = of("http://sms.example", "http://push.example").expect_err("in the clear");
    let keys: Vec<&str> = wrong.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["notifications.sms_url", "notifications.push_url"]);
}
