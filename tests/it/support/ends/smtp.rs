//! A mail server: aiosmtpd in a child process (tests/data/mail.py), killed on drop.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::certs::Pair;

/// A message that the server was given.
#[derive(Debug, Clone)]
pub struct Mail {
    pub to: String,
    /// What became of it: `ok`, `451` …
    pub fate: String,
    /// Headers and body.
    pub text: String,
}

impl Mail {
    /// A header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        let start = format!("{name}: ");
        let line = self.text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_default()
    }
}

/// The server.
pub struct Server {
    pub port: u16,
    child: Child,
    stdin: ChildStdin,
    seen: Arc<Mutex<Vec<Mail>>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// One that asks for STARTTLS, and speaks this version of TLS and no other.
    pub fn in_tls(pair: &Pair, version: &str) -> Self {
        let [cert, key] = [&pair.cert, &pair.key].map(|path| path.display().to_string());
        Self::with(&[&cert, &key, version])
    }

    fn with(arguments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let packages = root.join("target/mail");
        assert!(
            packages.join("aiosmtpd").is_dir(),
            "no aiosmtpd; run `make mail-server`"
        );
        let mut child = Command::new("python3")
            .env("PYTHONPATH", packages)
            .arg(root.join("tests/data/mail.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let stdin = child.stdin.take().expect("piped");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines
            .next()
            .expect("a line")
            .expect("read")
            .parse()
            .expect("a port");
        let seen: Arc<Mutex<Vec<Mail>>> = Arc::default();
        let found = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).expect("JSON");
                let text = |value: &Value| value.as_str().expect("a text").to_owned();
                found.lock().expect("held").push(Mail {
                    to: text(&value["to"][0]),
                    fate: text(&value["fate"]),
                    text: text(&value["mail"]),
                });
            }
        });
        Self {
            port,
            child,
            stdin,
            seen,
        }
    }

    /// What the next messages meet; those behind them are taken.
    pub fn script(&mut self, fates: &[&str]) {
        for fate in fates {
            writeln!(self.stdin, "{fate}").expect("written");
        }
        self.stdin.flush().expect("written");
    }

    /// Every message so far, those that were refused too.
    pub fn seen(&self) -> Vec<Mail> {
        self.seen.lock().expect("held").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
