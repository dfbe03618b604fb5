//! Keys and what a look at a store comes to; with a real server: tests/it/at_rest.rs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const ONE: &str = "one-key-of-thirty-two-characters";
const TWO: &str = "two-key-of-thirty-two-characters";

fn key_file(dir: &Path, text: &str, mode: u32) -> PathBuf {
    let path = dir.join("a-key");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
    path
}

fn at_rest(key_file: PathBuf) -> AtRest {
    AtRest {
        key_file,
        named: true,
        given: false,
        make: false,
        cipher: Cipher::ChaChaPoly,
    }
}

fn touch(store: &Path, below: &str) {
    let path = store.join("jetstream").join(below);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, "x").expect("written");
}

#[test]
fn a_key_that_is_short_odd_or_open_to_others_is_refused_without_being_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    for (text, mode, word) in [
        ("short", 0o600, "5 characters"),
        (ONE, 0o640, "0640"),
        ("with a blank in it, and long enough", 0o600, "blanks"),
        ("with-a-\"quote\"-in-it-and-long-enough", 0o600, "blanks"),
    ] {
        let path = key_file(dir.path(), text, mode);
        let error = StoreKey::read(&path, false)
            .expect_err("refused")
            .to_string();
        assert!(error.contains(word) && !error.contains(text), "{error}");
    }
    let path = key_file(dir.path(), &format!("{ONE}\n"), 0o440);
    let key = StoreKey::read(&path, true).expect("given").expect("there");
    assert_eq!(key.quoted(), format!("\"{ONE}\""));
    assert!(!format!("{key:?}").contains("one"));
    let drawn = StoreKey::draw().expect("drawn");
    assert!(drawn.quoted().len() > CHARACTERS_MIN && drawn != StoreKey::draw().expect("drawn"));
}

#[test]
fn a_store_and_a_key_that_do_not_go_together_are_told_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = dir.path().join("nats");
    let own = at_rest(key_file(dir.path(), ONE, 0o600));
    let unnamed = AtRest {
        key_file: dir.path().join("none"),
        named: false,
        ..own.clone()
    };
    let made = AtRest {
        make: true,
        ..unnamed.clone()
    };
    let tell = |at_rest: &AtRest| encryption(Some(at_rest), &store);
    assert_eq!(
        tell(&own).expect("empty"),
        Encryption::Coming(Cipher::ChaChaPoly)
    );
    assert_eq!(
        tell(&made).expect("empty"),
        Encryption::Coming(Cipher::ChaChaPoly)
    );
    assert_eq!(tell(&unnamed).expect("empty"), Encryption::Off);
    touch(&store, "RC/streams/EVENTS/meta.inf");
    assert_eq!(tell(&made).expect("plain"), Encryption::Off);
    assert!(matches!(
        tell(&own),
        Err(Error::Key(Mismatch::Plain { .. }))
    ));
    touch(&store, "RC/streams/EVENTS/meta.key");
    assert!(matches!(
        tell(&own),
        Err(Error::Key(Mismatch::Unknown { .. }))
    ));
    let two = StoreKey::read(&key_file(dir.path(), TWO, 0o600), false)
        .expect("read")
        .expect("there");
    write_note(&store, &Note::of(&two, Cipher::ChaChaPoly)).expect("noted");
    assert_eq!(
        tell(&own).expect("opens"),
        Encryption::On(Cipher::ChaChaPoly)
    );
    let aes = AtRest {
        cipher: Cipher::Aes,
        ..own.clone()
    };
    assert!(matches!(
        tell(&aes),
        Err(Error::Key(Mismatch::Cipher { .. }))
    ));
    key_file(dir.path(), ONE, 0o600);
    assert!(matches!(
        tell(&own),
        Err(Error::Key(Mismatch::Wrong { .. }))
    ));
    for none in [&unnamed, &made] {
        assert!(matches!(
            tell(none),
            Err(Error::Key(Mismatch::Missing { .. }))
        ));
    }
    let gone = AtRest {
        key_file: dir.path().join("gone"),
        ..own
    };
    assert!(matches!(tell(&gone), Err(Error::KeyFile { .. })));
}
