//! DOMAIN 5.9 on the bench: what the tests of logins and of accounts share.

mod accounts;
mod erased;
mod logins;

use serde_json::{Value, json};

use super::keys::Keys;
use super::{AuthOptions, AuthRole};
use crate::event::{Actor, Event, Id, Ts, ids};
use crate::role::testing::Bench;
use crate::role::{HandlerError, Rejection};

/// The phone of the tests' person.
const PHONE: &str = "+15550001111";
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

type Answer = Result<(Value, Vec<Event>), HandlerError>;

/// The role on the bench, with new chance for every command.
struct Desk {
    bench: Bench<AuthRole>,
    commands: u64,
}

impl Desk {
    fn new() -> Self {
        Self {
            bench: Bench::new(AuthRole::new(options())),
            commands: 0,
        }
    }

    fn ask(&mut self, actor: &Actor, command: &str, body: Value) -> Answer {
        self.commands += 1;
        let mut chance = [5; 32];
        chance[..8].copy_from_slice(&self.commands.to_be_bytes());
        self.bench.entropy = chance;
        self.bench.command(actor, command, body)
    }

    /// A request from the door, before anybody is known.
    fn public(&mut self, command: &str, body: Value) -> Answer {
        self.ask(&Actor::System("gateway".to_owned()), command, body)
    }

    fn admin(&mut self, command: &str, body: Value) -> Answer {
        self.ask(&admin(), command, body)
    }

    fn register(&mut self, role: &str) -> Answer {
        let body = json!({ "phone": PHONE, "role": role, "name": "Ann" });
        self.public("auth.register", body)
    }

    fn request_otp(&mut self) -> Answer {
        self.public("auth.request_otp", json!({ "phone": PHONE }))
    }

    fn verify(&mut self, code: &str) -> Answer {
        self.public("auth.verify", json!({ "phone": PHONE, "code": code }))
    }

    fn refresh(&mut self, token: &Value) -> Answer {
        self.public("auth.refresh", json!({ "refreshToken": token }))
    }

    /// The code that was sent last.
    fn code(&self) -> String {
        let call = self.bench.calls.last().expect("a call");
        call.secret.as_ref().expect("a secret").expose().to_owned()
    }

    /// A code that is not the one that was sent last.
    fn wrong_code(&self) -> String {
        let number: u32 = self.code().parse().expect("digits");
        format!("{:06}", (number + 1) % 1_000_000)
    }

    /// Registers and verifies; gives the tokens.
    fn logged_in(&mut self, role: &str) -> Value {
        self.register(role).expect("registered");
        let code = self.code();
        self.verify(&code).expect("verified").0
    }

    fn pass(&mut self, ms: i64) {
        self.bench.now = Ts::from_ms(self.bench.now.ms() + ms);
    }

    /// An account that an admin makes.
    fn made(&mut self, phone: &str, role: &str) -> Value {
        let body = json!({ "phone": phone, "role": role, "name": "Bob" });
        self.admin("auth.create_user", body).expect("made").0
    }
}

fn options() -> AuthOptions {
    AuthOptions {
        keys: Keys::new(&[[9; 32]], [8; 32]).expect("a key"),
        ..AuthOptions::default()
    }
}

fn admin() -> Actor {
    Actor::Admin(ids::derive_v7(1, &[b"admin"]))
}

fn user_id(answer: &Value) -> Id {
    Id::parse(answer["userId"].as_str().expect("a text")).expect("an id")
}

fn refused<T: std::fmt::Debug>(answer: Result<T, HandlerError>) -> Rejection {
    match answer {
        Err(HandlerError::Rejected(rejection)) => rejection,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The reason of a refused login.
fn reason<T: std::fmt::Debug>(answer: Result<T, HandlerError>) -> String {
    let refusal = refused(answer);
    assert_eq!(
        refusal.code,
        crate::role::Code::AuthenticationError,
        "{refusal:?}"
    );
    let details = refusal.details.unwrap_or_default();
    details["reason"].as_str().unwrap_or_default().to_owned()
}
