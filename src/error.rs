//! The table of error codes that an operator meets (`error[RC0201]: …`): code, exit code, title, and the page that
//! `roadcall explain CODE` prints. A code is written nowhere else; a published one never changes its meaning.
//!
//! Refusals of commands have the codes of DOMAIN 1.3 instead (`role::Code`): they are for whoever sent the command.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $code:literal, exit $exit:literal, $title:literal, means $means:literal, why $why:literal, fix $remedy:literal;)+) => {
        /// What went wrong, as an operator sees it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode {
            $(#[doc = $title] $name,)+
        }

        impl ErrorCode {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code's page.
            #[must_use]
            pub fn page(self) -> &'static Page {
                match self {
                    $(Self::$name => &Page {
                        code: $code,
                        exit: $exit,
                        title: $title,
                        means: $means,
                        why: $why,
                        remedy: $remedy,
                    },)+
                }
            }
        }
    };
}

/// What `roadcall explain` says of a code.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The code, `RC0201`.
    pub code: &'static str,
    /// Exit code of a process that ends with it: 64 for usage and configuration, else 1.
    pub exit: u8,
    /// The thing in a few words.
    pub title: &'static str,
    /// What it means, and what it does not touch.
    pub means: &'static str,
    /// Usual causes.
    pub why: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl ErrorCode {
    /// The code with this name, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.page().code.eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.page().code)
    }
}

codes! {
    Usage = "RC0001", exit 64, "wrong arguments",
        means "The command line does not say something that can be done. Nothing was changed.",
        why "A role, an entity or a value is misspelt, or an option that the command needs is missing.",
        fix "Read the help line under the error, or the command's --help.";
    Failed = "RC0002", exit 1, "the command failed",
        means "The command could not be carried out, for the reason in the sentence.",
        why "What was asked for is not there, or the machine refused something.",
        fix "Read the help line under the error. If it has none and the sentence does not help, report it.";

    Config = "RC0101", exit 64, "wrong configuration",
        means "A key does not exist or has a value that can't be used. Each problem has a line of its own, all at once. Nothing was started.",
        why "A typing error in a file, in a ROADCALL__SECTION__KEY variable or in a flag; or a key of another version.",
        fix "Mend what the line names; `roadcall config check` looks again, `roadcall config show --origin` prints what is in force and where it came from. config/roadcall.toml lists every key.";
    Rules = "RC0102", exit 64, "wrong rules file",
        means "The rules that say which event goes to which queue can't be used. A running role keeps its old rules.",
        why "A typing error, two rules with one name, or two rules that bring the same event to the same queue.",
        fix "Mend the rule that the sentence names, or leave rules.file empty for the rules that ship with Roadcall.";
    NotBuilt = "RC0103", exit 64, "a role that this build does not have",
        means "The role is part of the design, but this version can't run it.",
        why "An older roadcall, or a configuration written for a newer one.",
        fix "Take the role out of --role or site.roles, or install a version that has it.";

    BrokerDown = "RC0201", exit 1, "the broker can't be reached",
        means "Nobody answered at bus.url in time. What roles have accepted is safe in their databases and goes out later. A role that is running waits and reconnects by itself; only a start, or a command from a person, ends with this.",
        why "nats-server is not running, listens elsewhere, or a firewall is in between; or the user and password in bus.url, or the credentials, are refused.",
        fix "Start the broker (`systemctl status roadcall-broker`), or set bus.url or --nats. `roadcall check` says what it finds. Under systemd a role is started again until the broker is there.";
    BrokerRefused = "RC0202", exit 1, "the broker refused",
        means "The broker answered a request with an error of its own, whose number and words stand in the sentence.",
        why "A full stream or disk (10077, 10023), missing permissions, or an object that was changed by hand.",
        fix "Look the number up in the broker's log. When a stream is full, raise archive.max_bytes or broker.max_file_store; outboxes wait meanwhile.";
    Drift = "RC0203", exit 1, "streams or queues are missing or differ",
        means "The broker does not hold what this site's configuration and rules need. A role refuses to start, because events might pass it by.",
        why "`roadcall topology apply` was never run on this broker, or the rules, the site's roles or the archive's settings have changed since.",
        fix "Look at `roadcall topology plan`, then run `roadcall topology apply --yes` with the same configuration.";
    Unsuitable = "RC0204", exit 1, "the broker can't be used",
        means "Somebody answered at bus.url, but not a broker that Roadcall can work with.",
        why "nats-server is older than 2.10.25, JetStream is off for this account, or the credentials file can't be read.",
        fix "Install the nats-server that `make broker` fetches, or enable JetStream in the server's configuration.";

    NoBroker = "RC0210", exit 1, "no nats-server to run",
        means "This process should run the broker itself and has found no nats-server.",
        why "The build has none in it, broker.binary is not set, and none is on PATH.",
        fix "Use the build of `make build`, run `make broker` and set broker.binary, or use an external broker with broker.mode = \"external\".";
    BrokerNotRunnable = "RC0211", exit 1, "the nats-server can't be run",
        means "The file was found, but the system or the file itself refuses to run.",
        why "It is for another processor, is not executable, lies on a file system mounted noexec, or is no nats-server.",
        fix "Run it by hand with --version; set broker.binary to a good one.";
    BrokerTooOld = "RC0212", exit 1, "the nats-server is too old",
        means "Roadcall relies on behaviour that older servers do not have, and refuses rather than losing events. Nothing was started and nothing changed.",
        why "broker.binary or PATH leads to a distribution's old nats-server.",
        fix "Install 2.10.25 or newer (2.15.1 for sites with leafs), or set broker.binary. The store directory can be kept.";
    BrokerDirectory = "RC0213", exit 1, "the broker's directory can't be used",
        means "The server's store directory or its configuration file could not be made or written.",
        why "Another user owns it, the disk is full or read-only, or part of the path is a file.",
        fix "Make it writable for this user, or set broker.store_dir or site.state_dir.";
    BrokerNotStarted = "RC0214", exit 1, "the nats-server did not start",
        means "It was run, but ended or did not become ready in time.",
        why "Its port is taken, often by another roadcall; its store is damaged or larger than broker.max_file_store; the disk is full.",
        fix "Set broker.listen to a free port, or run nats-server --config with the nats-server.conf in the store directory and read what it says.";
    BrokerRunning = "RC0215", exit 1, "the broker's store is in use",
        means "Another roadcall runs a nats-server on this store directory. Two on one store would destroy it, so nothing was started.",
        why "The service is running already, or a process of it has not ended yet.",
        fix "Stop the other process, use its broker with broker.mode = \"external\", or give this one its own broker.store_dir.";
    ArchiveHidden = "RC0216", exit 1, "the archive is on the disk, but the broker does not show it",
        means "The store directory holds a stream EVENTS that the server did not load. Making a new one would delete the archive, so nothing is made and nothing starts.",
        why "The server runs with a wrong or missing encryption key, or the stream's files are damaged.",
        fix "Give the server the key that the store was written with, or restore the directory from a copy. Only if the archive may be lost: move the directory away.";
    StoreKey = "RC0217", exit 1, "the broker's store and its key do not go together",
        means "The store holds a note of the key that it is encrypted with, and the key that is configured is another one, or there is none, or the store is not encrypted at all. nats-server would start, show no streams, and delete what it can't read when they are made anew; so it is not started, and nothing in the store was touched.",
        why "broker.store_key_file names another site's key, or a key of before a rotation (FILE.old); store.key was not brought along when the state directory was moved; a credential is missing in /etc/roadcall/secrets; or the store was put in place of another one.",
        fix "Name the right key: everything is there again with it. A plain store is encrypted by `roadcall auth rotate-store-key --yes`. A key that is lost can't be made again: restore store and key from a copy, or, only if the archive may be lost, move the store's directory away.";

    StateDir = "RC0302", exit 1, "the state directory can't be used",
        means "The directory for the roles' databases can't be made or written. Nothing was started.",
        why "Another user owns it, the file system is read-only, or part of the path is a file.",
        fix "Make it writable for this user, or set site.state_dir (--state-dir).";
    Locked = "RC0303", exit 1, "the role already runs here",
        means "Another process has this role's database in this state directory. One role runs once per site.",
        why "The service is running already, or a process of it has not ended yet.",
        fix "Stop the other process, or give this one its own site.state_dir and broker.";
    Owned = "RC0304", exit 1, "the queue belongs to another database",
        means "The role's place on the broker was reached with another database than the one in this state directory. Going on with this one would mean to forget what the other one did, so nothing was started.",
        why "site.state_dir (--state-dir) leads elsewhere than before, the database was deleted or replaced, or the role already runs on another machine.",
        fix "Start the role with its own state directory. If the old database is gone for good, and no process has it: `roadcall queue adopt <queue> --yes` with this state directory, while the broker runs (`roadcall --role broker`, where it is embedded).";

    DiskFull = "RC0310", exit 1, "the disk is full",
        means "A role could not write its database. What was answered with ok is safe; the step that failed was undone as a whole and its events come again. The role stops rather than going on half.",
        why "The file system of site.state_dir, or its quota, is used up: often by the broker's streams or by logs.",
        fix "Free some space and start the role again; it goes on where it was. Lower archive.max_bytes or broker.max_file_store if streams used the space up.";
    DiskFailed = "RC0311", exit 1, "reading or writing a database failed",
        means "The system reported an error of the disk or the file system under a role's database. The step was undone; its events come again.",
        why "A failing disk, a removed drive, a file larger than the process may write, or a network file system.",
        fix "Look at the system's log and the disk's health. If the disk is sound, start the role again; else restore a snapshot on another one.";
    Corrupt = "RC0312", exit 1, "a database is damaged",
        means "A role's file is not a sound SQLite database. It is not touched any further.",
        why "A failing disk, a copy made while the role was running, or another program wrote to it.",
        fix "Keep the file for a look, restore it from a snapshot, and start the role again: what the snapshot lacks comes from the archive.";
    ReadOnly = "RC0313", exit 1, "a database can't be opened for writing",
        means "A role's file, or its directory, can't be written by this user.",
        why "It belongs to another user, for example after a command run as root; or the file system is read-only.",
        fix "Give the state directory and its files back to the service's user.";
    Busy = "RC0314", exit 1, "a database is held by another process",
        means "Another process kept a role's file locked for longer than the role waits.",
        why "A tool such as sqlite3 has a transaction open, or a backup holds the file.",
        fix "End the other process and start the role again.";
    NewerSchema = "RC0315", exit 1, "a database was written by a newer roadcall",
        means "The file has tables that this version does not know. It is not touched.",
        why "The program was set back to an older version after a newer one had run.",
        fix "Run the newer version again. To stay with the older one, restore the snapshot from before the change.";
    Defect = "RC0316", exit 1, "a defect in roadcall",
        means "A statement or a stored document did not fit the program's own tables.",
        why "This should not be possible.",
        fix "Report it with the log. The event that led to it is a dead letter or comes again.";
    SnapshotDamaged = "RC0317", exit 1, "a snapshot is damaged",
        means "What the object store has under this number is not the database that was put there. It was not used; the database in the state directory is untouched.",
        why "The broker's store was damaged, or somebody changed the bucket SNAPSHOTS by hand.",
        fix "Restore another one: `roadcall snapshot list`, then `roadcall snapshot restore --role ROLE --id N`. The role catches up with the archive from an older one, too.";

    DoorClosed = "RC0401", exit 1, "the gateway can't listen",
        means "The address in gateway.listen could not be taken.",
        why "Another process listens there, the address is not this machine's, or the port needs rights that the user does not have.",
        fix "Choose another gateway.listen; `ss -ltnp` shows who listens where.";

    NoReply = "RC0501", exit 1, "no reply to a command",
        means "The command was sent, and no answer came in time. Whether it was carried out is unknown.",
        why "The role is not running, is starting, or is behind; or the broker was lost in between.",
        fix "Send it again with the same --idempotency-key: it is carried out once and answered with the first answer. `roadcall queue list` shows whether the role is behind.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn codes_are_in_order_and_have_a_page_and_an_exit_code() {
        let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.page().code).collect();
        let sorted: BTreeSet<&str> = codes.iter().copied().collect();
        assert_eq!(codes, sorted.into_iter().collect::<Vec<_>>());
        for code in ErrorCode::ALL {
            let page = code.page();
            assert!(
                page.code.len() == 6 && page.code.starts_with("RC"),
                "{page:?}"
            );
            assert_eq!(
                page.exit,
                if page.code < "RC0002" || page.code.starts_with("RC01") {
                    64
                } else {
                    1
                },
                "{page:?}"
            );
            for text in [page.means, page.why, page.remedy] {
                assert!(text.ends_with('.'), "{page:?}");
            }
            assert_eq!(ErrorCode::parse(&page.code.to_lowercase()), Some(*code));
        }
    }

    /// `RC` and four digits anywhere in `text`.
    fn named(text: &str) -> BTreeSet<String> {
        text.match_indices("RC")
            .filter_map(|(at, _)| text.get(at..at + 6))
            .filter(|code| code.bytes().skip(2).all(|b| b.is_ascii_digit()))
            .map(str::to_owned)
            .collect()
    }

    fn visit(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path, found);
            } else if path
                .extension()
                .is_some_and(|ext| ext == "rs" || ext == "md" || ext == "toml")
            {
                found.extend(named(&std::fs::read_to_string(&path).unwrap_or_default()));
            }
        }
    }

    #[test]
    fn every_code_that_is_named_anywhere_has_a_page() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::new();
        for dir in ["src", "tests", "config", "systemd"] {
            visit(&root.join(dir), &mut found);
        }
        for file in ["README.md", "ARCHITECTURE.md"] {
            found.extend(named(
                &std::fs::read_to_string(root.join(file)).unwrap_or_default(),
            ));
        }
        for code in found {
            assert!(ErrorCode::parse(&code).is_some(), "{code} has no page");
        }
    }
}
