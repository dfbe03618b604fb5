//! Whom a broker of ours lets in and what each may: an account for each identity, without JetStream of its own, that imports
//! single services of the site's account (BROKER 9). Who is in such an account can reach nothing but these, and since the server
//! rewrites the reply subject of what it passes on, he can't have an answer put anywhere else either.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::links::{ACCOUNT, quoted};

/// How something comes into an account from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A request with one answer, or none.
    One,
    /// A request with many answers.
    Many,
    /// Messages, with the reply subjects that they have.
    Stream,
}

/// What an account gets of another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The other account.
    pub from: String,
    /// The subject, the same on both sides.
    pub subject: String,
    /// How.
    pub kind: Kind,
}

/// An account: who is in it, and what comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// The public keys of those who are in it.
    pub users: Vec<String>,
    /// What it gets.
    pub imports: Vec<Import>,
}

/// Everybody whom the broker knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    /// The public keys of those who are in the site's own account, where everything is.
    pub operators: Vec<String>,
    /// What that account gets of the others.
    pub imports: Vec<Import>,
    /// The others.
    pub accounts: Vec<Account>,
}

/// The name of the site's own account, for those who say what is imported from it.
pub const SITE_ACCOUNT: &str = ACCOUNT;

/// What each account gives, by subject: to whom, and how.
type Exports<'a> = BTreeMap<&'a str, (Kind, Vec<&'a str>)>;

impl Identities {
    fn exports(&self, of: &str) -> Exports<'_> {
        let mut exports = Exports::new();
        let site = (ACCOUNT, &self.imports);
        let others = self
            .accounts
            .iter()
            .map(|account| (account.name.as_str(), &account.imports));
        for (importer, imports) in std::iter::once(site).chain(others) {
            for import in imports.iter().filter(|import| import.from == of) {
                let export = exports
                    .entry(&import.subject)
                    .or_insert((import.kind, Vec::new()));
                // One that answers many times may also answer once.
                export.0 = export.0.max(import.kind);
                export.1.push(importer);
            }
        }
        exports
    }

    /// What the site's account has besides its users: what it gives and gets.
    pub(super) fn site_account(&self) -> String {
        format!(
            "{}{}",
            exports(&self.exports(ACCOUNT)),
            imports(&self.imports)
        )
    }

    /// The other accounts.
    pub(super) fn others(&self) -> String {
        let mut text = String::new();
        for account in &self.accounts {
            let users: Vec<String> = account.users.iter().map(|key| user(key)).collect();
            // Writing into a text does not fail.
            let _ = writeln!(
                text,
                "  {} {{ users: [{}]\n{}{}  }}",
                quoted(&account.name),
                users.join(", "),
                exports(&self.exports(&account.name)),
                imports(&account.imports)
            );
        }
        text
    }
}

/// Somebody who proves this public key.
pub(super) fn user(key: &str) -> String {
    format!("{{ nkey: {} }}", quoted(key))
}

fn exports(exports: &Exports<'_>) -> String {
    let one = |(subject, (kind, accounts)): (&&str, &(Kind, Vec<&str>))| {
        let subject = quoted(subject);
        let accounts: Vec<String> = accounts.iter().map(|name| quoted(name)).collect();
        let accounts = accounts.join(", ");
        match kind {
            Kind::Stream => format!("    {{ stream: {subject}, accounts: [{accounts}] }}\n"),
            Kind::One | Kind::Many => format!(
                "    {{ service: {subject}, accounts: [{accounts}], response_type: \"{}\" }}\n",
                if *kind == Kind::Many {
                    "stream"
                } else {
                    "singleton"
                }
            ),
        }
    };
    block("exports", exports.iter().map(one))
}

fn imports(imports: &[Import]) -> String {
    let one = |import: &Import| {
        let kind = match import.kind {
            Kind::Stream => "stream",
            Kind::One | Kind::Many => "service",
        };
        format!(
            "    {{ {kind}: {{ account: {}, subject: {} }} }}\n",
            quoted(&import.from),
            quoted(&import.subject)
        )
    };
    block("imports", imports.iter().map(one))
}

fn block(name: &str, lines: impl Iterator<Item = String>) -> String {
    let lines: String = lines.collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("  {name}: [\n{lines}  ]\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_gives_what_others_get_and_to_them_alone() {
        let import = |from: &str, subject: &str, kind| Import {
            from: from.to_owned(),
            subject: subject.to_owned(),
            kind,
        };
        let account = |name: &str, imports| Account {
            name: name.to_owned(),
            users: vec![format!("U{name}")],
            imports,
        };
        let identities = Identities {
            operators: Vec::new(),
            imports: vec![import("A", "svc.a.>", Kind::One)],
            accounts: vec![
                account("A", vec![import("RC", "x", Kind::Many)]),
                account(
                    "B",
                    vec![
                        import("RC", "x", Kind::One),
                        import("A", "svc.a.b", Kind::One),
                    ],
                ),
            ],
        };
        let site = identities.site_account();
        assert!(
            site.contains("service: \"x\", accounts: [\"A\", \"B\"], response_type: \"stream\""),
            "{site}"
        );
        let others = identities.others();
        for line in [
            "service: \"svc.a.>\", accounts: [\"RC\"], response_type: \"singleton\"",
            "service: \"svc.a.b\", accounts: [\"B\"], response_type: \"singleton\"",
            "service: { account: \"A\", subject: \"svc.a.b\" }",
            "nkey: \"UA\"",
        ] {
            assert!(others.contains(line), "{others}");
        }
    }
}
