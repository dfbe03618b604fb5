//! The rules of the house, read from the sources: who may import whom, where the environment and the clock are read, how
//! long a file may be, what a comment or a panic must say (DESIGN 3). It judges text, not a syntax tree: strings and
//! comments are blanked first, which is enough for code that rustfmt has laid out.

use std::path::{Path, PathBuf};

/// A longer file wants to be two; around 500 is the aim.
const LINES_MAX: usize = 700;
/// The rooms of the house, and which others each may use.
const ROOMS: [(&str, &[&str]); 13] = [
    ("event", &[]),
    ("tls", &[]),
    ("routing", &["event"]),
    ("store", &["event"]),
    ("bus", &["event"]),
    ("broker", &[]),
    ("role", &["event", "store"]),
    ("provider", &["event", "store", "tls"]),
    ("config", &["event", "routing"]),
    ("ops", &["event", "config"]),
    (
        "node",
        &[
            "event", "routing", "store", "bus", "broker", "role", "provider", "config", "ops",
        ],
    ),
    (
        "gateway",
        &["event", "bus", "role", "config", "node", "tls"],
    ),
    (
        "cli",
        &[
            "event", "routing", "bus", "broker", "role", "config", "ops", "node", "gateway", "tls",
            "error",
        ],
    ),
];
/// Files that use a room they otherwise may not, with the reason.
const EXCUSED: [(&str, &str, &str); 1] = [(
    "src/cli/failure.rs",
    "store",
    "gives each class of store error its words and exit code; a start fails with them through the node",
)];
/// What a role may name of the store: its transaction, and what the store hands on with it.
const STORE_FOR_ROLES: [&str; 10] = [
    "Tx",
    "params",
    "Error",
    "EffectCall",
    "EffectClass",
    "EffectOutcome",
    "Secret",
    "self",
    "Class",
    "Origin",
];
/// Files that may sleep, with the reason; everything else waits for a condition.
const SLEEPERS: [(&str, &str); 12] = [
    ("tests/it/at_rest.rs", "the moment of a kill is the fault"),
    (
        "tests/it/sites/stick.rs",
        "the server forgets ids by the clock",
    ),
    ("tests/it/support/mod.rs", "`eventually` itself"),
    (
        "tests/it/support/processes.rs",
        "asks a starting broker again, before there is a runtime",
    ),
    (
        "tests/it/crash.rs",
        "the moment of a kill is the fault that the seed chooses",
    ),
    (
        "tests/it/kills.rs",
        "the moment of a kill is the fault that the seed chooses",
    ),
    (
        "tests/it/payments.rs",
        "the moment of a kill is the fault that the seed chooses",
    ),
    (
        "tests/it/sites/cuts.rs",
        "the moment of a kill and how long a cut lasts are the faults",
    ),
    (
        "tests/it/sites/cluster.rs",
        "the moment of a kill is the fault",
    ),
    (
        "tests/it/sites/wire.rs",
        "that pieces come late is the fault",
    ),
    (
        "tests/it/fleet.rs",
        "the moment of a kill is the fault that the seed chooses",
    ),
    ("tests/it/tidy.rs", "names the word"),
];

/// One source file: its path from the package's root, its text, and its code without comments and strings.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The room that it is in; `None` for the files at the front door.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        inside.split_once('/').map(|(room, _)| room)
    }

    /// Code that is not there for tests: everything before the tests at the end of a file.
    fn shipped(&self) -> &str {
        let for_tests = ["/tests.rs", "_tests.rs", "/testing.rs"]
            .iter()
            .any(|end| self.path.ends_with(end))
            || self.path.contains("/tests/");
        if for_tests {
            return "";
        }
        self.code.split("#[cfg(test)]").next().unwrap_or_default()
    }

    /// Modules between the crate's root and this file.
    fn depth(&self) -> usize {
        let steps = self.path.trim_start_matches("src/").split('/').count();
        if self.path.ends_with("/mod.rs") {
            steps - 1
        } else {
            steps
        }
    }

    fn line_of(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    folders
        .iter()
        .for_each(|folder| walk(&root().join(folder), &mut files));
    files.sort();
    files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = std::fs::read_to_string(path).expect("UTF-8");
            let code = blank(&text);
            let path = path
                .strip_prefix(root())
                .expect("inside")
                .to_string_lossy()
                .into_owned();
            Source { path, text, code }
        })
        .collect()
}

/// Blanks comments and the insides of strings and characters; keeps every position.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    let erase = |code: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut code[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &text[at..];
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
            if bytes.get(at + 1 + hashes) != Some(&b'"') {
                at += 1;
                continue;
            }
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = at + 2 + hashes;
            inside + text[inside..].find(&close).expect("a string ends") + close.len()
        } else if bytes[at] == b'"' {
            let mut end = at + 1;
            while bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if bytes[at] == b'\''
            && (bytes[at + 1] == b'\\' || text[at + 1..].chars().nth(1) == Some('\''))
        {
            // A character, not a lifetime.
            let first = text[at + 1..].chars().next().map_or(1, char::len_utf8);
            let from = at + 1 + if bytes[at + 1] == b'\\' { 2 } else { first };
            from + text[from..].find('\'').expect("a character ends") + 1
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        if bytes[at] == b'/' {
            erase(&mut code, at, end);
        } else {
            erase(&mut code, at + 1, end - 1);
        }
        at = end;
    }
    String::from_utf8(code).expect("what was erased was whole")
}

/// Every place where `needle` stands as a whole word.
fn words<'c>(code: &'c str, needle: &'c str) -> impl Iterator<Item = usize> + 'c {
    let part =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    code.match_indices(needle)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = at
                .checked_sub(1)
                .and_then(|before| code.as_bytes().get(before));
            !part(before) && !part(code.as_bytes().get(at + needle.len()))
        })
}

/// The names behind a path prefix: `crate::event::X` gives `event`, `crate::{a, b::c}` gives `a` and `b`.
fn names_behind(code: &str) -> Vec<&str> {
    let word = |text: &'_ str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let Some(list) = code.strip_prefix('{') else {
        return vec![&code[..word(code)]];
    };
    let mut depth = 0;
    let mut names = Vec::new();
    let mut start = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && (c.is_alphanumeric() || c == '_') => {
                names.push(&list[at..at + word(&list[at..])]);
                start = false;
            }
            _ => {}
        }
    }
    names
}

/// The rooms that a file names, with the place: by `crate::`, or by as many `super::` as lead to the root.
fn imports(source: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut prefixes = vec!["crate::".to_owned()];
    // A test module at the end of the file stands one deeper; one `super` more leads out of it.
    prefixes.push("super::".repeat(source.depth()));
    for prefix in prefixes {
        for (at, _) in source.code.match_indices(&prefix) {
            if source.code[..at].ends_with("super::") || source.code[..at].ends_with('$') {
                continue;
            }
            for name in names_behind(&source.code[at + prefix.len()..]) {
                found.push((at, name));
            }
        }
    }
    found
}

fn report(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} of them:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let mut problems = Vec::new();
    for source in sources(&["src"]) {
        let Some(room) = source.room() else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            problems.push(format!("{}: {room} is no room of DESIGN 3", source.path));
            continue;
        };
        for (at, name) in imports(&source) {
            let is_room = ROOMS.iter().any(|(other, _)| *other == name);
            let excused = EXCUSED
                .iter()
                .any(|(file, other, _)| *file == source.path && *other == name);
            if is_room && name != room && !allowed.contains(&name) && !excused {
                problems.push(format!(
                    "{}:{}: {room} must not use {name}",
                    source.path,
                    source.line_of(at)
                ));
            }
        }
        if room != "role" || source.path.ends_with("/testing.rs") {
            continue;
        }
        for (at, _) in source.code.match_indices("store::") {
            for name in names_behind(&source.code[at + "store::".len()..]) {
                if !STORE_FOR_ROLES.contains(&name) {
                    problems.push(format!(
                        "{}:{}: a role must not use store::{name}",
                        source.path,
                        source.line_of(at)
                    ));
                }
            }
        }
    }
    report(&problems);
}

/// A word that stands only in some rooms.
struct Kept {
    word: &'static str,
    rooms: &'static [&'static str],
    /// Files elsewhere that may use it, and why.
    except: &'static [(&'static str, &'static str)],
}

const KEPT: [Kept; 15] = [
    Kept {
        word: "rusqlite",
        rooms: &["store"],
        except: &[],
    },
    Kept {
        word: "async_nats",
        rooms: &["bus"],
        except: &[],
    },
    Kept {
        word: "reqwest",
        rooms: &["provider"],
        except: &[],
    },
    Kept {
        word: "lettre",
        rooms: &["provider"],
        except: &[],
    },
    Kept {
        word: "std::env",
        rooms: &["config"],
        except: &[],
    },
    Kept {
        word: "env::var",
        rooms: &["config"],
        except: &[],
    },
    Kept {
        word: "env::var_os",
        rooms: &["config"],
        except: &[],
    },
    Kept {
        word: "Utc::now",
        rooms: &["node", "ops"],
        except: &[],
    },
    Kept {
        word: "Local::now",
        rooms: &[],
        except: &[],
    },
    Kept {
        word: "Instant::now",
        rooms: &["node", "ops"],
        except: &[],
    },
    Kept {
        word: "SystemTime",
        rooms: &["node", "ops"],
        except: &[],
    },
    Kept {
        word: "now_v7",
        rooms: &["node", "ops"],
        except: &[],
    },
    Kept {
        word: "Command::new",
        rooms: &["broker"],
        except: &[(
            "src/node/rollout/tools.rs",
            "what fleet.toml names to reload, restart and judge a site, and systemctl",
        )],
    },
    Kept {
        word: "std::process::exit",
        rooms: &[],
        except: &[
            ("src/cli/run.rs", "a second Ctrl-C ends at once (DESIGN 10)"),
            ("src/cli/mod.rs", "a closed pipe ends a command quietly"),
        ],
    },
    Kept {
        word: "print!",
        rooms: &["cli"],
        except: &[],
    },
];

#[test]
fn database_broker_environment_clock_and_processes_stay_in_their_rooms() {
    let mut problems = Vec::new();
    for source in sources(&["src"]) {
        for kept in &KEPT {
            let room = source.room().unwrap_or_default();
            let excused = kept.except.iter().any(|(file, _)| *file == source.path);
            if kept.rooms.contains(&room) || excused {
                continue;
            }
            let shipped = source.shipped();
            problems.extend(words(shipped, kept.word).map(|at| {
                format!(
                    "{}:{}: {} stays in {:?}",
                    source.path,
                    source.line_of(at),
                    kept.word,
                    kept.rooms
                )
            }));
        }
    }
    report(&problems);
}

#[test]
fn roles_are_deterministic() {
    // No thread, no file, no randomness, no order that changes from run to run.
    let kept_out = [
        "tokio",
        "std::thread",
        "std::fs",
        "std::net",
        "rand",
        "HashMap",
        "HashSet",
        "Uuid::new_v4",
        "static mut",
    ];
    let mut problems = Vec::new();
    for source in sources(&["src/role"]) {
        for word in kept_out {
            problems.extend(words(source.shipped(), word).map(|at| {
                format!(
                    "{}:{}: {word} has no place in a role",
                    source.path,
                    source.line_of(at)
                )
            }));
        }
    }
    report(&problems);
}

#[test]
fn files_have_a_purpose_and_an_end() {
    let mut problems = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        if !source.text.starts_with("//! ") {
            problems.push(format!(
                "{}: does not say at its top what it is for",
                source.path
            ));
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!(
                "{}: has {lines} lines, {LINES_MAX} are allowed",
                source.path
            ));
        }
    }
    report(&problems);
}

#[test]
fn what_may_panic_says_why_it_does_not() {
    let mut problems = Vec::new();
    for source in sources(&["src"]) {
        let shipped = source.shipped();
        let mut say = |at: usize, what: &str| {
            problems.push(format!("{}:{}: {what}", source.path, source.line_of(at)))
        };
        for word in [".unwrap()", "todo!", "unimplemented!", "dbg!", "panic!("] {
            shipped
                .match_indices(word)
                .for_each(|(at, _)| say(at, word));
        }
        for (at, call) in shipped.match_indices(".expect(") {
            // The code is blanked, the text at the same place is not.
            let reason = source.text[at + call.len()..].trim_start();
            let words = reason
                .strip_prefix('"')
                .and_then(|rest| rest.split('"').next())
                .unwrap_or_default();
            if words.split_whitespace().count() < 2 {
                say(at, "expect( without the reason why it can't fail");
            }
        }
        for (at, call) in shipped.match_indices("unreachable!(") {
            if source.text[at + call.len()..].starts_with(')') {
                say(at, "unreachable!() without the reason");
            }
        }
        for (at, call) in shipped.match_indices("allow(") {
            let line = source.text[at + call.len()..]
                .lines()
                .next()
                .unwrap_or_default();
            if source.code[..at].ends_with("#[") && !line.contains("// ") {
                say(at, "a lint is allowed without the reason beside it");
            }
        }
    }
    report(&problems);
}

#[test]
fn tests_wait_for_conditions_and_none_is_left_out() {
    let mut problems = Vec::new();
    for source in sources(&["src", "tests"]) {
        let tests = if source.path.starts_with("tests/") {
            source.code.as_str()
        } else {
            ""
        };
        if !SLEEPERS.iter().any(|(path, _)| *path == source.path) {
            problems.extend(
                words(tests, "sleep")
                    .map(|at| format!("{}:{}: sleeps", source.path, source.line_of(at))),
            );
        }
        problems.extend(
            source.code.match_indices("#[ignore").map(|(at, _)| {
                format!("{}:{}: a test is left out", source.path, source.line_of(at))
            }),
        );
    }
    report(&problems);
}

#[test]
fn nothing_names_a_machine_or_a_private_registry() {
    let mut files = Vec::new();
    for folder in [
        "src", "tests", "benches", "config", "docs", "systemd", "scripts", ".ci",
    ] {
        walk(&root().join(folder), &mut files);
    }
    let top = std::fs::read_dir(root())
        .expect("listed")
        .map(|entry| entry.expect("an entry").path());
    // What git keeps there for itself is not the package's.
    files.extend(top.filter(|path| path.is_file() && !path.ends_with(".git")));
    // Put together here, so that this file does not name them.
    let homes = ["home", "Users", "root", "work", "mnt"].map(|home| format!("/{home}/"));
    let private = ["index", "url"].join("-");
    let mut problems = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let name = file
            .strip_prefix(root())
            .expect("inside")
            .display()
            .to_string();
        for (number, line) in text.lines().enumerate() {
            let mut say =
                |what: &str| problems.push(format!("{name}:{}: {what}: {line}", number + 1));
            if homes.iter().any(|home| starts_a_path(line, home)) {
                say("a path of one machine");
            }
            if line.contains(&private) {
                say("a registry of one machine");
            }
            if name == "Cargo.lock"
                && line.starts_with("source = ")
                && !line.contains("github.com/rust-lang/crates.io-index")
            {
                say("a crate from elsewhere");
            }
        }
    }
    report(&problems);
}

/// Whether `path` stands in the line as the beginning of a path, not in the middle of one.
fn starts_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        line[..at]
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_alphanumeric() && !"./_-}{$*".contains(before))
    })
}

#[test]
fn the_scanner_sees_what_it_should() {
    let source = Source {
        path: "src/bus/memory.rs".to_owned(),
        text: String::new(),
        code: blank(
            "use crate::{event::Id, store::{Store, Tx}};\n// crate::node\nlet a = \"crate::cli\"; let c = '\"';\nuse super::super::role::Role;",
        ),
    };
    let mut seen: Vec<&str> = imports(&source).into_iter().map(|(_, name)| name).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["event", "role", "store"]);
    assert!(words("a rusqlite::x", "rusqlite").next().is_some());
    assert!(words("my_rusqlite", "rusqlite").next().is_none());
    let home = ["/ho", "me/"].concat();
    assert!(starts_a_path(&format!("cd {home}joe"), &home));
    assert!(!starts_a_path(&format!("https://a.example{home}x"), &home));
}
