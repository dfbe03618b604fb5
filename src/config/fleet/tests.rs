//! What a site gets, what a fleet may not say, and versions on a disk whatever ends in the middle.

use super::versions::{Error, KEPT, Versions, current, kept};
use super::*;
use crate::config::{Loaded, Sources};

fn write(dir: &Path, file: &str, text: &str) -> PathBuf {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
    std::fs::write(&path, text).expect("written");
    path
}

fn fleet(dir: &Path) -> Version {
    let fleet = Fleet::open(dir).expect("a fleet");
    fleet.version("depot-7").expect("a version")
}

fn example(dir: &Path) {
    write(
        dir,
        "base.toml",
        "[site]\nprofile = 'staging'\n[matching]\nrounds = 4\nmax_cycles = 2\n[log]\nlevel = 'warn'",
    );
    write(
        dir,
        "profiles/prod.toml",
        "[matching]\nrounds = 5\n[log]\nlevel = 'error'",
    );
    write(
        dir,
        "sites/depot-7.toml",
        "[site]\nprofile = 'prod'\n[log]\nlevel = 'debug'",
    );
    write(dir, "roles/match.toml", "[engine]\nbatch_max = 32");
}

/// A site that has the version.
fn site(dir: &Path) -> PathBuf {
    write(
        dir,
        "roadcall.toml",
        "[matching]\nrounds = 9\noffers_per_round = 9",
    )
}

fn load(main: &Path, fleet: Option<FleetLayers>, role: &str) -> Loaded {
    Loaded::load(&Sources {
        files: vec![main.to_owned()],
        roles: vec![role.to_owned()],
        fleet,
        ..Sources::default()
    })
    .expect("valid")
}

#[test]
fn base_profile_site_and_role_are_merged_in_this_order_and_lie_before_the_sites_own_files() {
    let (dir, at) = (
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
    );
    example(dir.path());
    let main = site(at.path());
    write(at.path(), "conf.d/60.toml", "[matching]\nmax_cycles = 7");
    let version = fleet(dir.path());
    let before = load(&main, Some(version.layers.clone()), "match");
    Versions::open(&main)
        .expect("held")
        .put(&version)
        .expect("put");
    let after = load(&main, None, "match");
    assert_eq!(before.config, after.config);
    let config = after.config;
    assert_eq!(
        (config.site.id.as_str(), config.site.profile),
        ("depot-7", Profile::Prod)
    );
    assert_eq!(config.site.fleet, version.digest);
    assert_eq!(
        (config.matching.rounds, config.matching.offers_per_round),
        (5, 9)
    );
    assert_eq!(
        (config.matching.max_cycles, config.engine.batch_max),
        (7, 32)
    );
    assert_eq!(config.log.level, "debug");
    assert_eq!(load(&main, None, "vendor").config.engine.batch_max, 256);
    // A mistake would be told with the fleet's own file.
    let origin = before.origins.iter().find(|row| row.0 == "matching.rounds");
    assert!(origin.expect("listed").2.ends_with("profiles/prod.toml"));
}

#[test]
fn a_version_is_named_by_what_it_says() {
    let dir = tempfile::tempdir().expect("made");
    example(dir.path());
    let first = fleet(dir.path()).digest;
    write(dir.path(), "fleet.toml", "canaries = ['depot-7']");
    write(
        dir.path(),
        "base.toml",
        "# Another comment.\n[site]\nprofile = 'staging'\n[log]\nlevel = 'warn'\n[matching]\nrounds = 4\nmax_cycles = 2",
    );
    assert_eq!(fleet(dir.path()).digest, first);
    write(dir.path(), "roles/match.toml", "[engine]\nbatch_max = 33");
    assert_ne!(fleet(dir.path()).digest, first);
}

#[test]
fn what_a_fleet_may_not_say_is_told_with_file_and_key() {
    let dir = tempfile::tempdir().expect("made");
    assert!(Fleet::open(dir.path()).is_err());
    example(dir.path());
    write(dir.path(), "fleet.toml", "canaries = ['depot-8']");
    write(dir.path(), "profiles/live.toml", "");
    write(dir.path(), "sites/Depot.toml", "");
    let problems = Fleet::open(dir.path()).expect_err("wrong");
    assert_eq!(problems.len(), 3, "{problems:?}");
    for file in ["fleet.toml", "profiles/live.toml", "sites/Depot.toml"] {
        assert!(
            problems
                .iter()
                .any(|problem| problem.origin.ends_with(file)),
            "{file}"
        );
        std::fs::remove_file(dir.path().join(file)).expect("removed");
    }
    write(
        dir.path(),
        "base.toml",
        "[site]\nid = 'depot-8'\nfleet = 'mine'",
    );
    write(dir.path(), "roles/match.toml", "[site");
    let fleet = Fleet::open(dir.path()).expect("a fleet");
    let problems = fleet.version("depot-7").expect_err("wrong");
    let mut told: Vec<&str> = problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    told.sort_unstable();
    assert_eq!(told, ["", "site.fleet", "site.id"], "{problems:?}");
}

/// Another version for the same site.
fn nth(dir: &Path, n: usize) -> Version {
    write(
        dir,
        "sites/depot-7.toml",
        &format!("[matching]\nrounds = {n}"),
    );
    match n % 2 {
        0 => drop(write(
            dir,
            "roles/match.toml",
            &format!("[engine]\nbatch_max = {n}"),
        )),
        _ => drop(std::fs::remove_file(dir.join("roles/match.toml"))),
    }
    fleet(dir)
}

/// What is in force, which is one version whole: the role's number is the base's.
fn in_force(main: &Path) -> Option<usize> {
    let config = load(main, None, "match").config;
    if config.site.fleet.is_empty() {
        assert_eq!((config.matching.rounds, config.engine.batch_max), (9, 256));
        return None;
    }
    let rounds = usize::try_from(config.matching.rounds).expect("small");
    let expected = if rounds.is_multiple_of(2) {
        rounds
    } else {
        256
    };
    assert_eq!(config.engine.batch_max, expected);
    Some(rounds)
}

#[test]
fn three_versions_are_kept_and_each_can_be_gone_back_to() {
    let (dir, at) = (
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
    );
    example(dir.path());
    let main = site(at.path());
    let versions = Versions::open(&main).expect("held");
    assert!(matches!(Versions::open(&main), Err(Error::Busy { .. })));
    for n in 1..=5 {
        versions.put(&nth(dir.path(), n)).expect("put");
        assert_eq!(in_force(&main), Some(n));
        versions.settle().expect("settled");
    }
    assert_eq!(kept(at.path()).len(), KEPT);
    for n in [4, 3] {
        versions.back().expect("back");
        assert_eq!(in_force(&main), Some(n));
    }
    assert!(matches!(versions.back(), Err(Error::NothingEarlier { .. })));
    assert_eq!(in_force(&main), Some(3));
    versions.put(&nth(dir.path(), 6)).expect("put");
    assert_eq!(current(at.path()).map(|held| held.number), Some(4));
    versions.back().expect("back");
    assert_eq!(in_force(&main), Some(3));
}

#[test]
fn before_the_first_version_there_was_none() {
    let (dir, at) = (
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
    );
    example(dir.path());
    let main = site(at.path());
    let versions = Versions::open(&main).expect("held");
    versions.put(&nth(dir.path(), 2)).expect("put");
    assert_eq!(in_force(&main), Some(2));
    assert_eq!(versions.back().expect("back"), None);
    assert_eq!(in_force(&main), None);
    assert!(kept(at.path()).is_empty());
    assert!(!at.path().join("role.d/match.toml").is_symlink());
}

#[test]
fn a_file_of_the_sites_own_is_not_overwritten() {
    let (dir, at) = (
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
    );
    example(dir.path());
    let main = site(at.path());
    let own = write(at.path(), "role.d/match.toml", "[engine]\nbatch_max = 256");
    let versions = Versions::open(&main).expect("held");
    let refused = versions.put(&fleet(dir.path()));
    assert!(matches!(refused, Err(Error::Foreign { path }) if path == own));
    assert_eq!(in_force(&main), None);
}

#[test]
fn the_fleets_files_are_read_by_whom_the_main_file_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, at) = (
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
    );
    example(dir.path());
    let main = site(at.path());
    std::fs::set_permissions(&main, std::fs::Permissions::from_mode(0o640)).expect("set");
    Versions::open(&main)
        .expect("held")
        .put(&fleet(dir.path()))
        .expect("put");
    for file in ["conf.d/50-fleet.toml", "role.d/match.toml"] {
        let meta = std::fs::metadata(at.path().join(file)).expect("there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o640, "{file}");
    }
}

#[test]
fn the_example_is_a_fleet_whose_sites_load() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fleet");
    let example = Fleet::open(&dir).expect("a fleet");
    assert_eq!(example.sites, ["depot-7", "hub"]);
    let at = tempfile::tempdir().expect("made");
    let main = write(at.path(), "roadcall.toml", "");
    for site in &example.sites {
        let version = example.version(site).expect("a version");
        let config = load(&main, Some(version.layers), "match").config;
        assert_eq!(config.engine.batch_max, 128);
        assert_eq!(config.site.profile, Profile::Prod);
    }
}
