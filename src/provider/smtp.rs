//! E-mail over SMTP, to one mail server that passes it on.
//!
//! SMTP knows no idempotency key. The delivery's id is the `Message-ID`, which stays the same through all tries, so that a
//! mailbox or a person can tell a second copy. A try that ended in silence is made again by the role under that same id
//! (DESIGN promise 2: at least once under a stable key); the quick retries of idempotent calls are not made.

use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{self, Certificate, TlsParameters, TlsVersion};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde_json::{Value, json};

use super::{Believed, CallError, Runner, Try, message_not_after, message_of, text_of};
use crate::event::Ts;
use crate::store::{EffectCall, Secret};
use crate::tls::trouble;

/// How the connection is protected: by TLS 1.3 and nothing older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// STARTTLS, required.
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// Not at all: for this machine.
    None,
}

/// The mail server.
#[derive(Debug)]
pub struct Server {
    /// Its name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// See [`Tls`].
    pub tls: Tls,
    /// Who signs in, if anybody.
    pub user: Option<String>,
    /// His password.
    pub password: Secret,
    /// Whom messages come from.
    pub from: String,
    /// Who signs its certificate.
    pub believed: Believed,
}

/// The carrier of the channel `email`.
#[derive(Debug)]
pub struct Smtp(Server);

impl Smtp {
    /// Over this server. What is wrong with its name is told by each call.
    #[must_use]
    pub fn new(server: Server) -> Self {
        Self(server)
    }

    /// A connection of each call's own: it believes whom the file names now.
    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, CallError> {
        let server = &self.0;
        let tls = match server.tls {
            Tls::None => client::Tls::None,
            Tls::Starttls => client::Tls::Required(self.parameters()?),
            Tls::Implicit => client::Tls::Wrapper(self.parameters()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&server.host)
            .port(server.port)
            .tls(tls);
        if let Some(user) = server.user.clone() {
            let password = server.password.expose().to_owned();
            builder = builder.credentials(Credentials::new(user, password));
        }
        Ok(builder.build())
    }

    fn parameters(&self) -> Result<TlsParameters, CallError> {
        let believed = &self.0.believed;
        let pem = believed.pem()?;
        let mut builder =
            TlsParameters::builder(self.0.host.clone()).set_min_tls_version(TlsVersion::Tlsv13);
        if !pem.is_empty() {
            let own = Certificate::from_pem(&pem).map_err(|_| believed.unusable())?;
            builder = builder.add_root_certificate(own);
        }
        builder
            .build_rustls()
            .map_err(|_| CallError::Refused("email: the mail server's name is unusable".to_owned()))
    }

    async fn send(&self, call: &EffectCall) -> Result<Value, CallError> {
        let transport = self.transport()?;
        let message = message_of(call)?;
        let id = message_id(&call.key, &self.0.from);
        let mail = mail(call, &message, &self.0.from, id.clone())?;
        match transport.send(mail).await {
            Ok(_) => Ok(json!({ "id": id })),
            Err(error) => Err(judged(&error)),
        }
    }
}

/// `<key@domain of the sender>`.
fn message_id(key: &str, from: &str) -> String {
    let domain = from
        .rsplit_once('@')
        .map_or("localhost", |(_, domain)| domain);
    format!("<{key}@{domain}>")
}

fn mail(call: &EffectCall, message: &Value, from: &str, id: String) -> Result<Message, CallError> {
    let unusable = |what: &str| CallError::Refused(format!("email: the {what} is unusable"));
    let from: Address = from.parse().map_err(|_| unusable("sender's address"))?;
    let to: Address = text_of(&call.request, "to")?
        .parse()
        .map_err(|_| unusable("address"))?;
    let (text, html) = (text_of(message, "text")?, text_of(message, "html")?);
    Message::builder()
        .message_id(Some(id))
        .from(Mailbox::new(Some("Roadcall".to_owned()), from))
        .to(Mailbox::new(None, to))
        .subject(text_of(message, "title")?)
        .multipart(MultiPart::alternative_plain_html(
            text.to_owned(),
            html.to_owned(),
        ))
        .map_err(|_| unusable("message"))
}

/// The server's words stay behind: they like to repeat the address. A code is enough to look it up.
fn judged(error: &Error) -> CallError {
    let code = error.status().map(|code| code.to_string());
    match code {
        Some(code) if error.is_permanent() => CallError::Refused(format!("email: SMTP {code}")),
        Some(code) => CallError::Unavailable(format!("email: SMTP {code}")),
        None if refused_connection(error) => {
            CallError::Unavailable("email: no connection".to_owned())
        }
        None if error.is_tls() || trouble(error).is_some() => {
            let why = trouble(error).map_or_else(String::new, |why| format!(": {why}"));
            CallError::Unavailable(format!("email: no protected connection{why}"))
        }
        // The library's own: it looks at what the server offers before it says anything of the mail.
        None if error.is_client() => CallError::Unavailable(
            "email: the mail server offers no STARTTLS, or no way to sign in that is known here"
                .to_owned(),
        ),
        None => CallError::Unknown("email: no answer".to_owned()),
    }
}

fn refused_connection(error: &Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = cause.source();
    }
    false
}

impl Runner for Smtp {
    fn kind(&self) -> &'static str {
        "email"
    }

    fn service(&self) -> &'static str {
        "email"
    }

    fn idempotent(&self) -> bool {
        false
    }

    fn not_after(&self, call: &EffectCall) -> Option<Ts> {
        message_not_after(call)
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(self.send(call))
    }
}
