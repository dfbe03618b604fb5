//! Who may do what (DOMAIN 1.2): the one place where permission and ownership are decided, before any command runs.

use serde_json::json;

use super::{Code, Rejection};
use crate::event::{Actor, Id};

/// A permission of DOMAIN 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are DOMAIN 1.2's own
pub enum Permission {
    IncidentCreate,
    IncidentView,
    IncidentUpdate,
    IncidentCancel,
    IncidentAssign,
    IncidentRate,
    IncidentWithdraw,
    IncidentRelease,
    /// Photos and papers, from those who are there (DOMAIN 5.1, add_media).
    IncidentMedia,
    OfferView,
    OfferAccept,
    OfferDecline,
    TrackingView,
    TrackingReport,
    TrackingStop,
    VendorRegister,
    VendorView,
    VendorEdit,
    VendorVerify,
    PaymentView,
    PaymentApprove,
    PaymentProcess,
    /// The confirmation that the paying driver alone may ask for (DOMAIN 5.5, payment.action).
    PaymentConfirm,
    AnalyticsView,
    CallView,
    /// Intake of a call: the caller's own link, the provider, a dispatcher (DOMAIN 5.8).
    CallIntake,
    CallRevealPii,
    NotificationSend,
    /// A one-time password to somebody: only the role auth (DOMAIN 5.6).
    NotificationOtp,
    KbView,
    KbEdit,
    AdminUsers,
    AdminConfig,
    AdminOps,
    /// What only the node itself does: ask roles for their numbers, and tell the audit role what it measured (DOMAIN 4.4).
    OpsMeasure,
    /// What everybody may do with what is his own: preferences, profile, consents.
    Own,
    /// Before anybody is known: registering, asking for a one-time password, turning it in.
    Public,
    /// What an outside provider tells us by a signed webhook.
    Webhook,
}

/// Who asks. Built from the access token by the gateway, or from `--as` by the CLI; never from a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The actor, as it stands in events.
    pub actor: Actor,
    /// The company of a driver or dispatcher.
    pub company: Option<Id>,
    /// A driver who pays himself (`payment=independent_contractor`).
    pub independent_contractor: bool,
    /// The person at the machine who acts as somebody else (DOMAIN 1.2, operator); kept in the timeline.
    pub operator: Option<String>,
}

impl Caller {
    /// A caller with nothing but an actor.
    #[must_use]
    pub fn of(actor: Actor) -> Self {
        Self {
            actor,
            company: None,
            independent_contractor: false,
            operator: None,
        }
    }

    /// Reads the header `Roadcall-Actor` (DESIGN 10): `driver:<id>;company=<id>;payment=independent_contractor`.
    ///
    /// # Errors
    /// One sentence that says which part is wrong.
    pub fn parse(header: &str) -> Result<Self, String> {
        let mut parts = header.split(';').map(str::trim);
        let actor = parts.next().unwrap_or_default();
        let mut caller = Self::of(
            actor
                .parse()
                .map_err(|error| format!("actor '{actor}': {error}"))?,
        );
        for part in parts {
            match part.split_once('=') {
                Some(("company", id)) => {
                    caller.company =
                        Some(Id::parse(id).map_err(|error| format!("company '{id}': {error}"))?);
                }
                Some(("payment", "independent_contractor")) => caller.independent_contractor = true,
                Some(("payment", "company")) => {}
                Some(("operator", name)) if !name.is_empty() => {
                    caller.operator = Some(name.to_owned())
                }
                _ => return Err(format!("'{part}' is none of company=, payment=, operator=")),
            }
        }
        Ok(caller)
    }

    /// The header that [`Caller::parse`] reads back.
    #[must_use]
    pub fn header(&self) -> String {
        let mut text = self.actor.to_string();
        if let Some(company) = self.company {
            text.push_str(&format!(";company={company}"));
        }
        if self.independent_contractor {
            text.push_str(";payment=independent_contractor");
        }
        if let Some(operator) = &self.operator {
            text.push_str(&format!(";operator={operator}"));
        }
        text
    }

    /// Admins and operators: everything, and the fields that only they may set.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        matches!(self.actor, Actor::Admin(_) | Actor::Operator(_))
    }
}

/// Whose entity a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Nobody's in particular: a search, or a listing that the handler filters itself.
    Open,
    /// An entity that these people own; `None` where it has no such owner (now).
    Owned {
        /// The driver whose incident it is.
        driver: Option<Id>,
        /// The vendor whose profile or offer it is, or who is assigned.
        vendor: Option<Id>,
        /// The company it belongs to.
        company: Option<Id>,
    },
    /// One person's own: a profile, preferences, consents.
    Person(Id),
}

/// Decides whether `caller` may run a command that needs `permission` on an entity in `scope`.
///
/// # Errors
/// `AUTHORIZATION_ERROR` that says which of the two, permission or ownership, is missing.
pub fn check(caller: &Caller, permission: Permission, scope: &Scope) -> Result<(), Rejection> {
    if !permitted(&caller.actor, permission) {
        return Err(refused(format!(
            "{} has no permission for this command",
            kind(&caller.actor)
        )));
    }
    let owns = match (scope, &caller.actor) {
        (Scope::Open, _) | (_, Actor::Admin(_) | Actor::Operator(_) | Actor::System(_)) => true,
        (Scope::Owned { driver, .. }, Actor::Driver(id)) => *driver == Some(*id),
        // A profile is open for reading; everything else of a vendor is his own.
        (Scope::Owned { vendor, .. }, Actor::Vendor(id)) => *vendor == Some(*id),
        // Without a company: a platform dispatcher, who looks after incidents without one.
        (Scope::Owned { company, .. }, Actor::Dispatcher(_)) => caller.company == *company,
        (Scope::Person(person), actor) => person_of(actor) == Some(*person),
        (Scope::Owned { .. }, Actor::Call(_) | Actor::Provider(_)) => false,
    };
    if owns {
        Ok(())
    } else {
        Err(refused(format!(
            "this belongs to somebody else than {}",
            kind(&caller.actor)
        )))
    }
}

/// The user id of a person; `None` for machines and for operators, who have no account.
#[must_use]
pub fn person_of(actor: &Actor) -> Option<Id> {
    match actor {
        Actor::Driver(id) | Actor::Vendor(id) | Actor::Dispatcher(id) | Actor::Admin(id) => {
            Some(*id)
        }
        Actor::System(_) | Actor::Call(_) | Actor::Provider(_) | Actor::Operator(_) => None,
    }
}

fn refused(message: String) -> Rejection {
    Rejection::new(Code::AuthorizationError, message).with_details(json!({}))
}

fn kind(actor: &Actor) -> &'static str {
    match actor {
        Actor::Driver(_) => "a driver",
        Actor::Vendor(_) => "a vendor",
        Actor::Dispatcher(_) => "a dispatcher",
        Actor::Admin(_) => "an admin",
        Actor::System(_) => "a service",
        Actor::Call(_) => "a call",
        Actor::Provider(_) => "a provider",
        Actor::Operator(_) => "an operator",
    }
}

/// The table of DOMAIN 1.2.
fn permitted(actor: &Actor, permission: Permission) -> bool {
    use Permission as P;
    match actor {
        Actor::Driver(_) => matches!(
            permission,
            P::IncidentCreate
                | P::IncidentView
                | P::IncidentCancel
                | P::IncidentRate
                | P::IncidentMedia
                | P::TrackingView
                | P::VendorView
                | P::PaymentView
                | P::PaymentConfirm
                | P::KbView
                | P::Own
                | P::Public
        ),
        Actor::Vendor(_) => matches!(
            permission,
            P::OfferView
                | P::OfferAccept
                | P::OfferDecline
                | P::IncidentView
                | P::IncidentUpdate
                | P::IncidentWithdraw
                | P::IncidentRate
                | P::IncidentMedia
                | P::TrackingView
                | P::TrackingReport
                | P::VendorRegister
                | P::VendorView
                | P::VendorEdit
                | P::PaymentView
                | P::KbView
                | P::Own
                | P::Public
        ),
        Actor::Dispatcher(_) => matches!(
            permission,
            P::IncidentView
                | P::IncidentUpdate
                | P::IncidentCancel
                | P::IncidentAssign
                | P::IncidentRelease
                | P::OfferView
                | P::TrackingView
                | P::TrackingStop
                | P::VendorView
                | P::PaymentView
                | P::PaymentApprove
                | P::AnalyticsView
                | P::CallView
                | P::CallIntake
                | P::CallRevealPii
                | P::NotificationSend
                | P::KbView
                | P::Own
                | P::Public
        ),
        Actor::Admin(_) | Actor::Operator(_) => !matches!(
            permission,
            P::OfferAccept
                | P::OfferDecline
                | P::IncidentRate
                | P::IncidentWithdraw
                | P::TrackingReport
                | P::PaymentConfirm
                | P::NotificationOtp
                | P::OpsMeasure
                | P::Webhook
        ),
        Actor::System(_) => matches!(
            permission,
            P::IncidentView
                | P::OfferView
                | P::TrackingView
                | P::VendorView
                | P::NotificationOtp
                | P::OpsMeasure
                | P::Public
        ),
        Actor::Call(_) => permission == P::CallIntake,
        Actor::Provider(_) => matches!(permission, P::Webhook | P::CallIntake),
    }
}
