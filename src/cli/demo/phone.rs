//! The call for help: the phone provider's signed webhooks, and what it gathers while the driver is on the line.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::story::until;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::config::Config;
use crate::event::{Point, Ts};
use crate::node::clock::Clock;

/// The phone provider, which knows the secret that its webhooks are signed under.
#[derive(Clone)]
pub(super) struct Line {
    secret: String,
}

/// A call for help.
pub(super) struct Call<'a> {
    /// Which of the run's it is, from 0.
    pub n: u32,
    /// The driver's account.
    pub driver: &'a str,
    /// The number that he calls from.
    pub phone: &'a str,
    /// Where he stands.
    pub place: Point,
}

impl Line {
    /// With the secret that `config` names; where it names none, with a new one in the state directory.
    pub(super) fn connect(config: &mut Config) -> Result<Self, Failure> {
        let file = &mut config.telephony.webhook_secret_file;
        if file.is_empty() {
            let path = config.site.state_dir.join("demo-calls.secret");
            write_secret(&path)
                .map_err(|error| Failure::other(format!("{}: {error}", path.display()), ""))?;
            *file = path.display().to_string();
        }
        let secret = std::fs::read_to_string(&*file).map_err(|error| {
            Failure::other(format!("telephony.webhook_secret_file: {error}"), "")
        })?;
        let secret = secret.trim().to_owned();
        Ok(Self { secret })
    }

    /// He calls and presses 1 for a tire, the provider learns where he stands, the call ends, its transcript comes. Gives the
    /// incident.
    pub(super) async fn breakdown(
        &self,
        client: &Client,
        call: &Call<'_>,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let Call {
            n,
            driver,
            phone,
            place,
        } = call;
        let provider = client.acting("provider:calls");
        let id = format!("demo-call-{n}");
        let began = Clock.now();
        let started =
            json!({ "providerCallId": id, "phone": phone, "startedAt": began, "keypad": "1" });
        self.tell(&provider, &id, "call.started", &started).await?;
        let of_driver = json!({ "driverId": driver });
        let listed = client.call("call.list", &of_driver).await?;
        let call = listed["items"][0]["callId"].clone();
        let intake = json!({ "callId": call, "lat": place.lat, "lon": place.lon });
        provider.call("call.intake", &intake).await?;
        let lasted = ((Clock.now().ms() - began.ms()) / 1000).unsigned_abs();
        let ended = json!({ "providerCallId": id, "phone": phone, "endedAt": Clock.now(), "durationSeconds": lasted,
            "disposition": "completed" });
        self.tell(&provider, &id, "call.ended", &ended).await?;
        let words = format!(
            "This is a driver, my number is {phone}. I have a flat tire. I stand on the shoulder of the highway."
        );
        let transcript = json!({ "providerCallId": id, "text": words, "confidence": 0.93 });
        self.tell(&provider, &id, "transcript.received", &transcript)
            .await?;
        let of_call = json!({ "callId": call });
        until(patience, "the call's incident", || async {
            let now = client.call("call.get", &of_call).await?;
            Ok(now
                .get("incidentId")
                .filter(|found| found.is_string())
                .cloned())
        })
        .await
    }

    /// One signed webhook.
    async fn tell(
        &self,
        provider: &Client,
        id: &str,
        kind: &str,
        data: &Value,
    ) -> Result<(), Failure> {
        let payload = json!({ "type": kind, "data": data }).to_string();
        let id = format!("{id}-{kind}");
        let now: Ts = Clock.now();
        let seconds = now.ms() / 1000;
        let signature = signature(&self.secret, &id, seconds, &payload).ok_or_else(|| {
            Failure::other(
                "telephony.webhook_secret_file holds no secret of the form whsec_<base64>",
                "",
            )
        })?;
        let body = json!({ "payload": payload, "id": id, "timestamp": seconds.to_string(), "signature": signature });
        provider.call("call.webhook", &body).await.map(drop)
    }
}

/// `webhook-signature` as the Standard Webhooks specification has it; `None` for a secret of another form.
fn signature(secret: &str, id: &str, seconds: i64, body: &str) -> Option<String> {
    let key = BASE64.decode(secret.strip_prefix("whsec_")?).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("{id}.{seconds}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
}

fn write_secret(path: &Path) -> std::io::Result<()> {
    let mut key = [0; 24];
    getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, format!("whsec_{}\n", BASE64.encode(key)))
}
