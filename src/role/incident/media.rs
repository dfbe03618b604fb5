//! Photos, videos and documents of an incident (DOMAIN 5.1): what there is and where it goes. The bytes never pass here: a
//! caller gets the key that they are put under, and how long that may take.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::commands::{find, via};
use crate::event::{Actor, Id, List, Text, Ts};
use crate::role::permission::person_of;
use crate::role::{Command, HandlerError, Rejection};
use crate::store::{Error, Tx, params};

/// Timer: a medium has been kept for as long as media are kept.
pub(super) const MEDIA_OVER: &str = "media_over";
/// How long media are kept (DOMAIN 6, retention).
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long an upload slot is valid.
const SLOT: Duration = Duration::from_secs(900);
/// The largest that there may be, 10 MB.
const LARGEST: u64 = 10_000_000;

/// The incident's media, as a table beside it.
pub(super) const MIGRATION: &str = "
CREATE TABLE media (
    media_id TEXT PRIMARY KEY,
    incident_id TEXT NOT NULL,
    -- The user id of who brought it, for his erasure; empty for an operator, who has none.
    person TEXT NOT NULL,
    doc TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX media_incident ON media (incident_id, media_id);
CREATE INDEX media_person ON media (person);
";

/// What may be brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)] // the names are media types
pub enum ContentType {
    #[serde(rename = "image/jpeg")]
    Jpeg,
    #[serde(rename = "image/png")]
    Png,
    #[serde(rename = "image/heic")]
    Heic,
    #[serde(rename = "video/mp4")]
    Mp4,
    #[serde(rename = "video/quicktime")]
    Quicktime,
    #[serde(rename = "application/pdf")]
    Pdf,
}

impl ContentType {
    fn kind(self) -> MediaKind {
        match self {
            Self::Jpeg | Self::Png | Self::Heic => MediaKind::Photo,
            Self::Mp4 | Self::Quicktime => MediaKind::Video,
            Self::Pdf => MediaKind::Document,
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Heic => "heic",
            Self::Mp4 => "mp4",
            Self::Quicktime => "mov",
            Self::Pdf => "pdf",
        }
    }
}

/// What sort of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are DOMAIN 5.1's own
pub enum MediaKind {
    Photo,
    Video,
    Document,
}

/// A photo, video or document of an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Media {
    /// Its name, for `mediaIds`.
    pub media_id: Id,
    /// What sort of thing it is.
    pub kind: MediaKind,
    /// Its media type.
    pub content_type: ContentType,
    /// How long it was said to be.
    pub size_bytes: u64,
    /// What the object is kept under; made here, so that nobody chooses somebody else's.
    pub object_key: Text<256>,
    /// Who brought it.
    pub uploaded_by: Actor,
    /// The person at the machine who acted as him (DESIGN 10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Actor>,
    /// When the slot was given: when the last byte came, nobody tells this role.
    pub uploaded_at: Ts,
}

/// A new medium with its upload slot.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct MediaSlot {
    #[serde(flatten)]
    media: Media,
    /// Until when the object may be put under its key.
    upload_until: Ts,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AddMedia {
    incident_id: Id,
    content_type: ContentType,
    #[schemars(range(min = 1, max = 10_000_000))]
    size_bytes: u64,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `incident.add_media`'s entry in the role's table.
pub(super) const COMMAND: crate::role::CommandSpec = super::spec::<AddMedia>(
    "incident.add_media",
    crate::role::permission::Permission::IncidentMedia,
    true,
)
.answers::<MediaSlot>();

pub(super) fn add(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: AddMedia = command.parse()?;
    let incident = find(tx, body.incident_id)?;
    if !(1..=LARGEST).contains(&body.size_bytes) {
        let message = format!("is {}, not 1 to {LARGEST}", body.size_bytes);
        return Err(Rejection::field("sizeBytes", message).into());
    }
    let (media_id, now) = (tx.new_id(), tx.now());
    let extension = body.content_type.extension();
    let key = format!("incident/{}/{media_id}.{extension}", incident.incident_id);
    let media = Media {
        media_id,
        kind: body.content_type.kind(),
        content_type: body.content_type,
        size_bytes: body.size_bytes,
        object_key: Text::lossy(&key),
        uploaded_by: command.actor().clone(),
        via: via(command),
        uploaded_at: now,
    };
    let person = person_of(command.actor()).map_or_else(String::new, |id| id.to_string());
    let doc = tx.text(&media)?;
    tx.execute(
        "INSERT INTO media (media_id, incident_id, person, doc) VALUES (?1, ?2, ?3, ?4)",
        params![
            media_id.to_string(),
            incident.incident_id.to_string(),
            person,
            doc
        ],
    )?;
    tx.schedule(now + KEPT, MEDIA_OVER, &media_id.to_string(), &json!({}))?;
    Ok(tx.reply(&MediaSlot {
        media,
        upload_until: now + SLOT,
    })?)
}

/// An incident's media, oldest first.
pub(super) fn of(tx: &Tx<'_>, incident_id: Id) -> Result<Vec<Media>, Error> {
    tx.documents(
        "SELECT doc FROM media WHERE incident_id = ?1 ORDER BY media_id",
        params![incident_id.to_string()],
    )
}

/// The objects that `ids` name, which must all be of this incident.
pub(super) fn references(
    tx: &Tx<'_>,
    incident_id: Id,
    ids: &List<Id, 0, 50>,
) -> Result<List<Text<512>, 0, 50>, HandlerError> {
    let known = of(tx, incident_id)?;
    let mut keys = Vec::new();
    for id in ids.get() {
        let Some(media) = known.iter().find(|media| media.media_id == *id) else {
            let message = format!("{id} is no medium of this incident");
            return Err(Rejection::field("mediaIds", message).into());
        };
        keys.push(Text::lossy(media.object_key.as_str()));
    }
    // As many as `ids`, which has the same limit.
    Ok(List::new(keys).expect("at most 50"))
}

/// What was kept long enough goes.
pub(super) fn drop_one(tx: &mut Tx<'_>, media_id: &str) -> Result<(), HandlerError> {
    tx.execute("DELETE FROM media WHERE media_id = ?1", params![media_id])?;
    Ok(())
}

/// Forgets what a person brought.
pub(super) fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    tx.execute(
        "DELETE FROM media WHERE person = ?1",
        params![user_id.to_string()],
    )?;
    Ok(())
}
