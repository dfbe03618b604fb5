//! What payments do on other roles' events (DOMAIN 5.5).

use super::entity::{AuditRow, history};
use super::{PaymentOptions, create, settings};
use crate::event::{DeadReason, Id, Known, Text, Ts};
use crate::role::{HandlerError, Received};
use crate::store::{Error, Tx, params};

pub(super) fn on_event(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    received: &Received,
) -> Result<(), HandlerError> {
    match received.event.known() {
        Some(Known::WorkCompleted(work)) => create::on_work(tx, options, work),
        Some(Known::VendorRegistered(vendor)) => Ok(learn(
            tx,
            vendor.vendor_id,
            vendor.profile_version.get(),
            vendor.registered_at,
            vendor.payout_account_ref.as_ref(),
        )?),
        Some(Known::VendorUpdated(vendor)) => Ok(learn(
            tx,
            vendor.vendor_id,
            vendor.profile_version.get(),
            vendor.registered_at,
            vendor.payout_account_ref.as_ref(),
        )?),
        Some(Known::ConfigurationChanged(changed)) => match settings::take(tx, changed)? {
            Ok(()) => Ok(()),
            Err(why) => Err(HandlerError::Permanent(DeadReason::InvalidEvent, why)),
        },
        Some(Known::UserDataDeleted(deleted)) => Ok(forget(tx, deleted.user_id)?),
        // No rule brings anything else.
        _ => Ok(()),
    }
}

/// Keeps what a payment needs of a vendor, from the newest version of his profile.
fn learn(
    tx: &mut Tx<'_>,
    vendor_id: Id,
    version: u64,
    registered_at: Ts,
    account: Option<&Text<128>>,
) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO vendor (vendor_id, profile_version, registered_at_ms, payout_account_ref) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (vendor_id) DO UPDATE SET profile_version = ?2, registered_at_ms = ?3, payout_account_ref = ?4
         WHERE profile_version < ?2",
        params![
            vendor_id.to_string(),
            version as i64,
            registered_at.ms(),
            account.map(Text::as_str)
        ],
    )?;
    Ok(())
}

/// Forgets what people wrote about the person's payments, and where a vendor was paid to. Amounts and who did what stay
/// for 7 years.
fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), Error> {
    let person = user_id.to_string();
    tx.execute(
        "UPDATE vendor SET payout_account_ref = NULL WHERE vendor_id = ?1",
        params![person],
    )?;
    let payments: Vec<Id> = tx.documents(
        "SELECT json_quote(payment_id) FROM payment WHERE driver_id = ?1 OR vendor_id = ?1 ORDER BY payment_id",
        params![person],
    )?;
    for payment_id in payments {
        for row in history(tx, payment_id)? {
            if row.note.is_none() {
                continue;
            }
            let seq = row.seq;
            let doc = tx.text(&AuditRow { note: None, ..row })?;
            tx.execute(
                "UPDATE payment_audit SET doc = ?3 WHERE payment_id = ?1 AND seq = ?2",
                params![payment_id.to_string(), seq as i64, doc],
            )?;
        }
    }
    Ok(())
}
