//! The file of keys: what comes back, what is destroyed, which site key opens it.

use super::*;

fn row(key_id: &str, subject: &str, ms: i64) -> KeyRow {
    KeyRow {
        key_id: key_id.to_owned(),
        subject: subject.to_owned(),
        site: "hub".to_owned(),
        secret: [key_id.len() as u8; SECRET_LEN],
        made_at: Ts::from_ms(ms),
    }
}

fn wrapping(byte: u8) -> DataKey {
    DataKey::new(&format!("site-{byte}"), &[byte; SECRET_LEN])
}

#[test]
fn a_key_comes_back_until_it_is_destroyed_and_none_is_taken_for_the_erased() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.db");
    let mut store = KeyStore::open(&path, wrapping(1)).expect("opened");
    assert_eq!(store.newest("ann", "hub").expect("read"), Kept::Unknown);
    store
        .keep(
            &[
                row("a", "ann", 1),
                row("bb", "ann", 2),
                row("ccc", "bob", 1),
            ],
            false,
        )
        .expect("kept");
    let newest = store.newest("ann", "hub").expect("read");
    assert_eq!(newest, Kept::Key(Box::new(row("bb", "ann", 2))));
    assert_eq!(store.newest("ann", "depot").expect("read"), Kept::Unknown);
    assert_eq!(store.counts().expect("counted"), (3, 0));
    let two = store.not_escrowed("hub", 2).expect("read");
    store.note_escrowed(&two).expect("noted");
    assert_eq!(store.not_escrowed("hub", 9).expect("read").len(), 1);

    assert_eq!(
        store
            .destroy("ann", Ts::from_ms(9), false)
            .expect("destroyed"),
        2
    );
    assert_eq!(store.newest("ann", "hub").expect("read"), Kept::Erased);
    assert_eq!(store.named("a").expect("read"), Kept::Erased);
    assert_eq!(store.named("never").expect("read"), Kept::Unknown);
    // An escrow that brings it back brings nothing.
    store.keep(&[row("dddd", "ann", 3)], true).expect("taken");
    assert_eq!(store.named("dddd").expect("read"), Kept::Erased);
    assert!(matches!(store.named("ccc").expect("read"), Kept::Key(_)));
    let untold = store.erased("", true, 10).expect("read");
    store.note_told(untold.keys()).expect("noted");
    assert_eq!(store.erased("", true, 10).expect("read").len(), 0);
    assert_eq!(store.erased("", false, 10).expect("read").len(), 1);
}

#[test]
fn no_key_is_in_the_file_in_clear_nor_a_destroyed_one_wrapped() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.db");
    let mut store = KeyStore::open(&path, wrapping(1)).expect("opened");
    store.keep(&[row("a", "ann", 1)], false).expect("kept");
    let wrapped = wrapping(1).seal(&[1; SECRET_LEN]);
    let bytes = || {
        let mut bytes = std::fs::read(&path).expect("read");
        bytes.extend(std::fs::read(dir.path().join("keys.db-wal")).unwrap_or_default());
        bytes
    };
    let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
    assert!(has(&bytes(), wrapped.as_str().as_bytes()));
    assert!(!has(&bytes(), &[1; SECRET_LEN]));
    store
        .destroy("ann", Ts::from_ms(9), false)
        .expect("destroyed");
    assert!(!has(&bytes(), wrapped.as_str().as_bytes()));
}

#[test]
fn another_site_key_is_refused_and_a_new_one_opens_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.db");
    let mut store = KeyStore::open(&path, wrapping(1)).expect("opened");
    store.keep(&[row("a", "ann", 1)], false).expect("kept");
    let refused = KeyStore::open(&path, wrapping(2)).expect_err("refused");
    assert_eq!(refused.class, Class::NoKey);
    assert_eq!(store.rewrap(wrapping(2)).expect("wrapped"), 1);
    drop(store);
    KeyStore::open(&path, wrapping(1)).expect_err("refused");
    let store = KeyStore::open(&path, wrapping(2)).expect("opened");
    let kept = store.named("a").expect("read");
    assert_eq!(kept, Kept::Key(Box::new(row("a", "ann", 1))));
}
