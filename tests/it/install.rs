//! The package: from nothing to a working depot in a bare root, upgraded, removed, purged (`scripts/try-install`).
//!
//! It needs what `make dist` leaves in target/dist, and root. Where one of them is missing the test says what it leaves out.
//! `scripts/try-systemd` is the same under a real systemd; that one needs debootstrap and is run by hand.

use std::path::Path;
use std::process::Command;

/// What the script ends with where the machine lacks something.
const LEFT_OUT: i32 = 77;

#[test]
fn the_package_makes_a_working_depot_in_a_bare_root() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/try-install");
    let output = Command::new(script).output().expect("runs");
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    eprint!("{words}{errors}");
    if output.status.code() == Some(LEFT_OUT) {
        return;
    }
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(words.matches("ok  ").count(), 6, "a step is missing");
}
