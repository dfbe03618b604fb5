//! Commands that send one request or read one thing, and print it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Connection;
use super::client::{Client, connect};
use super::failure::Failure;
use super::run::topology_roles;
use crate::bus::topology::{self, Class};
use crate::bus::{Bus, DLQ};
use crate::node::letter::Letter;
use crate::node::run::{desired, routes};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Print the merged configuration, secrets masked.
    Show {
        /// With the file that each value came from.
        #[arg(long)]
        origin: bool,
    },
    /// Report every problem at once; exit 64 if there is one.
    Check,
    /// Print the JSON Schema of the configuration.
    Schema,
}

pub(super) fn config(connection: &Connection, verb: &ConfigVerb) -> Result<ExitCode, Failure> {
    let loaded = connection.load();
    match verb {
        ConfigVerb::Schema => print_json(&schemars::schema_for!(crate::config::Config).to_value()),
        ConfigVerb::Check => {
            loaded?;
            println!("the configuration is valid");
        }
        ConfigVerb::Show { origin } => {
            let loaded = loaded?;
            if connection.json {
                let rows: Vec<Value> = loaded
                    .origins
                    .iter()
                    .map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin }))
                    .collect();
                print_json(&Value::Array(rows));
            } else {
                for (key, value, from) in &loaded.origins {
                    if *origin {
                        println!("{key} = {value}  # {from}")
                    } else {
                        println!("{key} = {value}")
                    }
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Subcommand)]
pub(super) enum TopologyVerb {
    /// Print the differences; exit 2 if there are any.
    Plan,
    /// Make what is missing and update what differs (changes the broker's streams and queues).
    Apply {
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn topology(
    connection: &Connection,
    verb: TopologyVerb,
) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-topology").await?;
    let wanted = desired(&config, &routes(&config)?, &topology_roles(&config)?);
    let changes = topology::plan(&bus, &wanted).await?;
    let apply = match verb {
        TopologyVerb::Plan => false,
        TopologyVerb::Apply { yes: true } => true,
        TopologyVerb::Apply { yes: false } => {
            return Err(Failure::usage(
                "topology apply changes the broker",
                "look at roadcall topology plan, then give --yes",
            ));
        }
    };
    let mut refused = false;
    for change in &changes {
        if apply && matches!(change.change, Class::Safe | Class::Backfill) {
            topology::apply(&bus, change).await?;
        }
        refused |= matches!(change.change, Class::Recreate | Class::Refuse);
    }
    let rows = serde_json::to_value(&changes).unwrap_or(Value::Null);
    print_rows(connection, &rows, &["object", "kind", "change", "detail"]);
    Ok(ExitCode::from(match (apply, changes.is_empty(), refused) {
        (false, false, _) => 2,
        (true, _, true) => 1,
        _ => 0,
    }))
}

#[derive(Debug, Args)]
pub(super) struct Call {
    /// `entity.verb`, for example `offer.accept`.
    command: String,
    /// The body, a JSON object.
    #[arg(default_value = "{}")]
    body: String,
}

pub(super) async fn call(connection: &Connection, call: Call) -> Result<ExitCode, Failure> {
    let body: Value = serde_json::from_str(&call.body).map_err(|error| {
        Failure::usage(
            &format!("the body is not JSON: {error}"),
            "quote it: '{\"offerId\":\"…\"}'",
        )
    })?;
    send(connection, &call.command, body).await
}

async fn send(connection: &Connection, command: &str, body: Value) -> Result<ExitCode, Failure> {
    let client = Client::open(connection).await?;
    let reply = client.call(command, &body).await?;
    match reply.get("items") {
        Some(items) if connection.json => print_json(items),
        _ => print_json(&reply),
    }
    Ok(ExitCode::SUCCESS)
}

/// A body from what was given on the command line; what was not given is left out.
fn body(fields: &[(&str, Option<Value>)]) -> Value {
    let given = fields
        .iter()
        .filter_map(|(name, value)| value.clone().map(|value| ((*name).to_owned(), value)));
    Value::Object(given.collect::<Map<_, _>>())
}

fn text(value: Option<String>) -> Option<Value> {
    value.map(Value::String)
}

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
pub(super) struct Move {
    /// The incident.
    id: String,
    /// Why, as a word like changed_mind.
    #[arg(long)]
    reason: Option<String>,
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
        IncidentVerb::List { status } => {
            return send(
                connection,
                "incident.list",
                body(&[("status", text(status))]),
            )
            .await;
        }
        IncidentVerb::Enroute(moved) => ("incident.update_status", moved, Some("vendor_en_route")),
        IncidentVerb::StartWork(moved) => ("incident.start_work", moved, None),
        IncidentVerb::CompleteWork(moved) => ("incident.complete_work", moved, None),
        IncidentVerb::Cancel(moved) => ("incident.cancel", moved, None),
    };
    let client = Client::open(connection).await?;
    let version = match moved.expected_version {
        Some(version) => json!(version),
        None => client
            .call("incident.get", &json!({ "incidentId": moved.id }))
            .await?["version"]
            .clone(),
    };
    let reason = moved.reason.or_else(|| {
        command
            .ends_with("cancel")
            .then(|| "operator_request".to_owned())
    });
    let body = body(&[
        ("incidentId", text(Some(moved.id))),
        ("expectedVersion", Some(version)),
        ("status", status.map(Value::from)),
        ("reason", text(reason)),
    ]);
    print_json(&client.call(command, &body).await?);
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Subcommand)]
pub(super) enum VendorVerb {
    /// Register one from a JSON file with the fields of vendor.register (changes data).
    Register {
        /// The file.
        #[arg(long)]
        file: PathBuf,
    },
    /// Show one.
    Get {
        /// The vendor.
        id: String,
    },
    /// List them, newest first.
    List,
    /// Approve or reject a background check (changes data).
    Verify {
        /// The vendor.
        id: String,
        /// pending, approved or rejected.
        status: String,
    },
    /// Set available or offline (changes data).
    Availability {
        /// The vendor.
        id: String,
        /// available or offline.
        status: String,
    },
    /// Find some near a place.
    Search {
        /// Latitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lat: f64,
        /// Longitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lon: f64,
        /// At most so far, miles.
        #[arg(long)]
        radius_miles: Option<f64>,
        /// Who can do this.
        #[arg(long)]
        capability: Option<String>,
    },
}

pub(super) async fn vendor(connection: &Connection, verb: VendorVerb) -> Result<ExitCode, Failure> {
    let (command, body) = match verb {
        VendorVerb::Register { file } => {
            let wrong = |message: String| {
                Failure::usage(
                    &format!("{}: {message}", file.display()),
                    "give a JSON object",
                )
            };
            let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
            (
                "vendor.register",
                serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?,
            )
        }
        VendorVerb::Get { id } => ("vendor.get", json!({ "vendorId": id })),
        VendorVerb::List => ("vendor.list", json!({})),
        VendorVerb::Verify { id, status } => (
            "vendor.verify",
            json!({ "vendorId": id, "backgroundCheckStatus": status }),
        ),
        VendorVerb::Availability { id, status } => (
            "vendor.set_availability",
            json!({ "vendorId": id, "status": status }),
        ),
        VendorVerb::Search {
            lat,
            lon,
            radius_miles,
            capability,
        } => {
            let fields = [
                ("lat", Some(json!(lat))),
                ("lon", Some(json!(lon))),
                ("radiusMiles", radius_miles.map(|miles| json!(miles))),
                ("capability", text(capability)),
            ];
            ("vendor.search", body(&fields))
        }
    };
    send(connection, command, body).await
}

#[derive(Debug, Subcommand)]
pub(super) enum OfferVerb {
    /// List them, newest first.
    List {
        /// Only this incident's.
        #[arg(long)]
        incident: Option<String>,
        /// Only this vendor's.
        #[arg(long)]
        vendor: Option<String>,
    },
    /// Take the job (changes data).
    Accept {
        /// The offer.
        id: String,
        /// The vendor who answers; short for --as vendor:ID.
        #[arg(long)]
        vendor: String,
    },
    /// Say no (changes data).
    Decline {
        /// The offer.
        id: String,
        /// The vendor who answers; short for --as vendor:ID.
        #[arg(long)]
        vendor: String,
        /// Why, as a word like too_far.
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(super) async fn offer(connection: &Connection, verb: OfferVerb) -> Result<ExitCode, Failure> {
    let acting = |vendor: &str| Connection {
        acting: Some(format!("vendor:{vendor}")),
        ..connection.clone()
    };
    match verb {
        OfferVerb::List { incident, vendor } => {
            let body = body(&[("incidentId", text(incident)), ("vendorId", text(vendor))]);
            send(connection, "offer.list", body).await
        }
        OfferVerb::Accept { id, vendor } => {
            send(&acting(&vendor), "offer.accept", json!({ "offerId": id })).await
        }
        OfferVerb::Decline { id, vendor, reason } => {
            let body = body(&[("offerId", text(Some(id))), ("reason", text(reason))]);
            send(&acting(&vendor), "offer.decline", body).await
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum QueueVerb {
    /// Depth and place of every queue of this site.
    List,
}

pub(super) async fn queue(connection: &Connection, _verb: &QueueVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    let mut rows = Vec::new();
    for role in topology_roles(&config)? {
        let Some(queue) = role.queue() else { continue };
        let state = bus.queue(queue).await?;
        let letters = bus
            .read(DLQ, &format!("dlq.{queue}.>"), 1, 1000, false)
            .await?;
        rows.push(json!({
            "queue": queue, "role": role.as_str(), "depth": state.pending + state.ack_pending,
            "inFlight": state.ack_pending, "deadLetters": letters.iter().filter(|letter| !letter.body.is_empty()).count(),
            "deliveredSeq": state.delivered_seq, "ackFloorSeq": state.ack_floor_seq,
        }));
    }
    print_rows(
        connection,
        &Value::Array(rows),
        &[
            "queue",
            "role",
            "depth",
            "inFlight",
            "deadLetters",
            "deliveredSeq",
        ],
    );
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Subcommand)]
pub(super) enum DlqVerb {
    /// List the letters that are neither redriven nor purged.
    List {
        /// Only this queue's.
        #[arg(long)]
        queue: Option<String>,
        /// Exit 2 when there are any.
        #[arg(long)]
        check: bool,
    },
    /// Show one, payload and attempts included.
    Show {
        /// The queue.
        #[arg(long)]
        queue: String,
        /// The event's sequence in the archive.
        #[arg(long)]
        seq: u64,
    },
}

pub(super) async fn dlq(connection: &Connection, verb: DlqVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    let (filter, seq, check) = match &verb {
        DlqVerb::List { queue, check } => (queue.clone(), None, *check),
        DlqVerb::Show { queue, seq } => (Some(queue.clone()), Some(*seq), false),
    };
    let filter = filter.map_or_else(|| "dlq.>".to_owned(), |queue| format!("dlq.{queue}.>"));
    let mut letters: Vec<Letter> = Vec::new();
    let mut from = 1;
    loop {
        let stored = bus.read(DLQ, &filter, from, 1000, false).await?;
        let Some(last) = stored.last() else { break };
        from = last.seq + 1;
        letters.extend(
            stored
                .iter()
                .filter_map(|message| serde_json::from_slice(&message.body).ok()),
        );
    }
    if let Some(seq) = seq {
        let letter = letters.into_iter().find(|letter| letter.seq == seq);
        let letter = letter.ok_or_else(|| {
            Failure::other(
                format!("there is no letter of sequence {seq}"),
                "see roadcall dlq list",
            )
        })?;
        print_json(&serde_json::to_value(letter).unwrap_or(Value::Null));
        return Ok(ExitCode::SUCCESS);
    }
    let found = !letters.is_empty();
    let rows = serde_json::to_value(letters).unwrap_or(Value::Null);
    print_rows(
        connection,
        &rows,
        &[
            "queue",
            "seq",
            "deliveries",
            "detailType",
            "entity",
            "reason",
            "deadAt",
        ],
    );
    Ok(ExitCode::from(if check && found { 2 } else { 0 }))
}

pub(super) fn print_json(value: &Value) {
    println!(
        "{}",
        serde_json::to_string_pretty(value).unwrap_or_default()
    );
}

/// A table for people, or the whole as JSON.
fn print_rows(connection: &Connection, rows: &Value, columns: &[&str]) {
    if connection.json {
        return print_json(rows);
    }
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(columns);
    for row in rows.as_array().into_iter().flatten() {
        let cell = |name: &&str| {
            row[*name]
                .as_str()
                .map_or_else(|| row[*name].to_string(), str::to_owned)
        };
        table.add_row(columns.iter().map(cell));
    }
    println!("{table}");
}
