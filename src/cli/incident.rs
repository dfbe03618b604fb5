//! `roadcall incident …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::call::{body, list, send, text};
use super::client::Client;
use super::failure::Failure;
use super::output::print_json;

#[derive(Debug, Subcommand)]
pub(super) enum IncidentVerb {
    /// Report a breakdown (changes data).
    Create(Box<CreateIncident>),
    /// Show one, with its timeline.
    Get {
        /// The incident.
        id: String,
    },
    /// List them, newest first.
    List {
        /// Only those with this status.
        #[arg(long)]
        status: Option<String>,
    },
    /// The assigned vendor is on his way (changes data).
    Enroute(Move),
    /// The work begins (changes data).
    StartWork(Move),
    /// The work is done (changes data).
    CompleteWork(Move),
    /// Cancel it (changes data).
    Cancel(Move),
    /// The assigned vendor gives the job back (changes data).
    Withdraw(Move),
    /// Take the job from the assigned vendor (changes data).
    Release(Move),
    /// Look for a vendor once more, after an escalation (changes data).
    Rematch(Move),
    /// Close it by hand (changes data).
    Close(Move),
    /// Note a photo, video or document and get the key to put it under (changes data).
    AddMedia(AddMedia),
}

#[derive(Debug, Args)]
pub(super) struct CreateIncident {
    /// The driver.
    #[arg(long)]
    driver: String,
    /// What broke: tire, engine or tow.
    #[arg(long = "type")]
    incident_type: String,
    /// Latitude, degrees.
    #[arg(long, allow_negative_numbers = true)]
    lat: f64,
    /// Longitude, degrees.
    #[arg(long, allow_negative_numbers = true)]
    lon: f64,
    /// To call back, like +15551234567.
    #[arg(long)]
    phone: Option<String>,
    /// The driver's company.
    #[arg(long)]
    company: Option<String>,
    /// Who pays: back_office or driver_ic.
    #[arg(long)]
    payer: Option<String>,
    /// low, normal, high or critical.
    #[arg(long)]
    priority: Option<String>,
    /// Makes a retry give the first answer.
    #[arg(long)]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct AddMedia {
    /// The incident.
    id: String,
    /// What it is: image/jpeg, image/png, image/heic, video/mp4, video/quicktime or application/pdf.
    #[arg(long)]
    content_type: String,
    /// How long it is, bytes.
    #[arg(long)]
    size: u64,
    /// Makes a retry give the first answer.
    #[arg(long)]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Move {
    /// The incident.
    id: String,
    /// Why, as a word like changed_mind.
    #[arg(long)]
    reason: Option<String>,
    /// Why, in words.
    #[arg(long)]
    note: Option<String>,
    /// The vendor who says so; short for --as vendor:ID.
    #[arg(long)]
    vendor: Option<String>,
    /// The version that the change is based on; without it, the one it has now.
    #[arg(long)]
    expected_version: Option<u64>,
}

pub(super) async fn incident(
    connection: &Connection,
    verb: IncidentVerb,
) -> Result<ExitCode, Failure> {
    let (command, moved, status) = match verb {
        IncidentVerb::Create(new) => {
            let body = body(&[
                ("driverId", text(Some(new.driver))),
                ("type", text(Some(new.incident_type))),
                ("lat", Some(json!(new.lat))),
                ("lon", Some(json!(new.lon))),
                ("phone", text(new.phone)),
                ("companyId", text(new.company)),
                ("payerType", text(new.payer)),
                ("priority", text(new.priority)),
                ("clientRequestId", text(new.idempotency_key)),
            ]);
            return send(connection, "incident.create", body).await;
        }
        IncidentVerb::Get { id } => {
            return send(connection, "incident.get", json!({ "incidentId": id })).await;
        }
        IncidentVerb::AddMedia(new) => {
            let body = body(&[
                ("incidentId", text(Some(new.id))),
                ("contentType", text(Some(new.content_type))),
                ("sizeBytes", Some(json!(new.size))),
                ("clientRequestId", text(new.idempotency_key)),
            ]);
            return send(connection, "incident.add_media", body).await;
        }
        IncidentVerb::List { status } => {
            let columns = [
                "incidentId",
                "status",
                "type",
                "priority",
                "vendorId",
                "createdAt",
            ];
            let body = body(&[("status", text(status))]);
            return list(connection, "incident.list", body, &columns).await;
        }
        IncidentVerb::Enroute(moved) => ("incident.update_status", moved, Some("vendor_en_route")),
        IncidentVerb::StartWork(moved) => ("incident.start_work", moved, None),
        IncidentVerb::CompleteWork(moved) => ("incident.complete_work", moved, None),
        IncidentVerb::Cancel(moved) => ("incident.cancel", moved, None),
        IncidentVerb::Withdraw(moved) => ("incident.withdraw", moved, None),
        IncidentVerb::Release(moved) => ("incident.release", moved, None),
        IncidentVerb::Rematch(moved) => ("incident.rematch", moved, None),
        IncidentVerb::Close(moved) => ("incident.close", moved, None),
    };
    move_it(connection, command, moved, status).await
}

async fn move_it(
    connection: &Connection,
    command: &str,
    moved: Move,
    status: Option<&str>,
) -> Result<ExitCode, Failure> {
    let mut connection = connection.clone();
    if let Some(vendor) = &moved.vendor {
        connection.acting = Some(format!("vendor:{vendor}"));
    }
    let client = Client::open(&connection).await?;
    let version = match moved.expected_version {
        Some(version) => json!(version),
        None => client
            .call("incident.get", &json!({ "incidentId": moved.id }))
            .await?["version"]
            .clone(),
    };
    let reason = moved.reason.or_else(|| {
        let asks = ["cancel", "withdraw", "release", "close"];
        let asks = asks.iter().any(|verb| command.ends_with(verb));
        asks.then(|| "operator_request".to_owned())
    });
    let body = body(&[
        ("incidentId", text(Some(moved.id))),
        ("expectedVersion", Some(version)),
        ("status", status.map(Value::from)),
        ("reason", text(reason)),
        ("note", text(moved.note)),
    ]);
    print_json(&client.call(command, &body).await?)?;
    Ok(ExitCode::SUCCESS)
}
