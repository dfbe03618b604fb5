//! The tables of the facts (DOMAIN 5.7).
//!
//! Every row has a natural key and says what one event said, so that any order and any repetition of the events leaves the
//! same rows. What depends on an order (where an incident stands now) is read off the newest row by `event_order`: the
//! producer's own sequence for the entity, then the time, then the id.

use super::watch;
use crate::role::alarm;

/// See the module.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE incident (
    incident_id TEXT PRIMARY KEY,
    driver_id TEXT,
    company_id TEXT,
    type TEXT,
    priority TEXT,
    lat REAL,
    lon REAL,
    created_at_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX incident_newest ON incident (created_at_ms DESC, incident_id DESC);

CREATE TABLE transition (
    incident_id TEXT NOT NULL,
    event_order TEXT NOT NULL,
    status TEXT NOT NULL,
    vendor_id TEXT,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (incident_id, event_order)
) WITHOUT ROWID;

CREATE TABLE assignment (
    incident_id TEXT NOT NULL,
    cycle INTEGER NOT NULL,
    vendor_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (incident_id, cycle)
) WITHOUT ROWID;
CREATE INDEX assignment_vendor ON assignment (vendor_id);

CREATE TABLE arrival (
    incident_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (incident_id, vendor_id)
) WITHOUT ROWID;

CREATE TABLE escalation (
    incident_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    cycle INTEGER NOT NULL,
    PRIMARY KEY (incident_id, reason, cycle)
) WITHOUT ROWID;

CREATE TABLE rating (
    incident_id TEXT NOT NULL,
    rated_by TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    stars INTEGER NOT NULL,
    PRIMARY KEY (incident_id, rated_by)
) WITHOUT ROWID;

CREATE TABLE offer (
    offer_id TEXT PRIMARY KEY,
    incident_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    created_at_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX offer_vendor ON offer (vendor_id);
CREATE INDEX offer_incident ON offer (incident_id);
-- How an offer went on: accepted, assigned (by a dispatcher), declined, expired, cancelled.
CREATE TABLE offer_step (
    offer_id TEXT NOT NULL,
    event_order TEXT NOT NULL,
    status TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (offer_id, event_order)
) WITHOUT ROWID;

CREATE TABLE payment (
    payment_id TEXT PRIMARY KEY,
    incident_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    amount_cents INTEGER NOT NULL,
    created_at_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX payment_incident ON payment (incident_id);
CREATE INDEX payment_vendor ON payment (vendor_id);
-- How a payment went on: pending_approval or approved at first, flagged, approved, rejected, completed, failed, refunded.
CREATE TABLE payment_step (
    payment_id TEXT NOT NULL,
    event_order TEXT NOT NULL,
    status TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (payment_id, event_order)
) WITHOUT ROWID;

-- Vendors and people; a name as it came, plain or sealed.
CREATE TABLE person (
    kind TEXT NOT NULL,
    person_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT,
    registered_at_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, person_id)
) WITHOUT ROWID;
CREATE TABLE erased (user_id TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE alarm_raised (
    name TEXT NOT NULL, subject TEXT NOT NULL, at_ms INTEGER NOT NULL, severity TEXT NOT NULL,
    PRIMARY KEY (name, subject, at_ms)
) WITHOUT ROWID;
CREATE TABLE alarm_cleared (
    name TEXT NOT NULL, subject TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (name, subject, at_ms)
) WITHOUT ROWID;

-- Every event once, for counts: kind 0 is one of the catalogue, 1 an unknown one, 2 a dead letter's.
CREATE TABLE seen (event_id BLOB PRIMARY KEY, at_ms INTEGER NOT NULL, kind INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX seen_at ON seen (at_ms, kind);
CREATE TABLE unknown (event_id BLOB PRIMARY KEY, detail_type TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE configuration (config_key TEXT PRIMARY KEY, version INTEGER NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
", alarm::MIGRATION, watch::MIGRATION, "
-- A page of payments is read from where the one before ended.
CREATE INDEX payment_newest ON payment (created_at_ms DESC, payment_id DESC);
"];

/// Empties what events from `?1` (Unix milliseconds) on will say again. Facts of incidents that are older than the archive
/// stay as they are: nothing would bring them back.
pub(super) const EMPTY: &[&str] = &[
    "DELETE FROM transition WHERE incident_id NOT IN (SELECT incident_id FROM incident WHERE created_at_ms < ?1)",
    "DELETE FROM assignment WHERE incident_id NOT IN (SELECT incident_id FROM incident WHERE created_at_ms < ?1)",
    "DELETE FROM arrival WHERE incident_id NOT IN (SELECT incident_id FROM incident WHERE created_at_ms < ?1)",
    "DELETE FROM escalation WHERE incident_id NOT IN (SELECT incident_id FROM incident WHERE created_at_ms < ?1)",
    "DELETE FROM rating WHERE incident_id NOT IN (SELECT incident_id FROM incident WHERE created_at_ms < ?1)",
    "DELETE FROM offer_step WHERE offer_id IN (SELECT offer_id FROM offer WHERE incident_id NOT IN (
        SELECT incident_id FROM incident WHERE created_at_ms < ?1))",
    "DELETE FROM offer WHERE incident_id NOT IN (SELECT incident_id FROM incident WHERE created_at_ms < ?1)",
    "DELETE FROM payment_step WHERE payment_id IN (SELECT payment_id FROM payment WHERE incident_id NOT IN (
        SELECT incident_id FROM incident WHERE created_at_ms < ?1))",
    "DELETE FROM payment WHERE incident_id NOT IN (SELECT incident_id FROM incident WHERE created_at_ms < ?1)",
    "DELETE FROM incident WHERE created_at_ms IS NULL OR created_at_ms >= ?1",
    "DELETE FROM person WHERE registered_at_ms >= ?1",
    "DELETE FROM alarm_raised WHERE at_ms >= ?1",
    "DELETE FROM alarm_cleared WHERE at_ms >= ?1",
    "DELETE FROM unknown WHERE event_id IN (SELECT event_id FROM seen WHERE at_ms >= ?1)",
    "DELETE FROM seen WHERE at_ms >= ?1",
];
