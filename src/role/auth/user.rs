//! The account, and how it is stored (DOMAIN 5.9).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::event::{
    AccountStatus, Count1, E164, Email, Id, List, PaymentType, Personal, Text, Ts, Tz,
    UserRegistered, UserRole, UserStatus, UserUpdated,
};
use crate::role::{Code, HandlerError, Rejection};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE user (
    user_id TEXT PRIMARY KEY,
    -- Nothing once he is erased: then the number may be somebody else's.
    phone TEXT UNIQUE,
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- The last login, or the creation.
    seen_at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX user_newest ON user (created_at_ms DESC, user_id DESC);
CREATE INDEX user_seen ON user (seen_at_ms) WHERE status <> 'erased';
CREATE TABLE otp_session (phone TEXT PRIMARY KEY, session_id TEXT NOT NULL UNIQUE, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE otp_request (phone TEXT NOT NULL, at_ms INTEGER NOT NULL, n INTEGER PRIMARY KEY);
CREATE INDEX otp_request_phone ON otp_request (phone, at_ms);
CREATE TABLE refresh_token (
    token_hash TEXT PRIMARY KEY,
    family_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    issued_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    used_at_ms INTEGER,
    revoked_at_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX refresh_token_family ON refresh_token (family_id);
CREATE INDEX refresh_token_user ON refresh_token (user_id);
CREATE INDEX refresh_token_expiry ON refresh_token (expires_at_ms);
CREATE TABLE consent (n INTEGER PRIMARY KEY, user_id TEXT NOT NULL, doc TEXT NOT NULL);
CREATE INDEX consent_user ON consent (user_id, n);
-- Whether the daily timer was ever set.
CREATE TABLE upkeep (one INTEGER PRIMARY KEY CHECK (one = 1));
"];

/// An account. It has no debug form, for nearly all of it is personal; what is rests sealed for him.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    pub user_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<E164>")]
    pub phone: Option<Personal<E164>>,
    pub role: UserRole,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text<120>>")]
    pub name: Option<Personal<Text<120>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Email>")]
    pub email: Option<Personal<Email>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_type: Option<PaymentType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text<32>>")]
    pub truck_number: Option<Personal<Text<32>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Text<32>>")]
    pub license_number: Option<Personal<Text<32>>>,
    pub language: Text<8>,
    pub timezone: Tz,
    pub status: AccountStatus,
    pub created_at: Ts,
    /// When it became active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_login_at: Option<Ts>,
    pub version: u64,
}

/// The state table of DOMAIN 5.9.
pub(super) fn legal(from: AccountStatus, to: AccountStatus) -> bool {
    use AccountStatus as S;
    matches!(
        (from, to),
        (S::Pending, S::Active)
            | (S::Active, S::Suspended)
            | (S::Suspended, S::Active)
            | (S::Pending | S::Active | S::Suspended, S::Erased)
    )
}

impl User {
    /// A new account that is not active yet.
    pub(super) fn new(user_id: Id, phone: E164, role: UserRole, name: Text<120>, now: Ts) -> Self {
        Self {
            user_id,
            phone: Some(Personal::plain(phone)),
            role,
            name: Some(Personal::plain(name)),
            email: None,
            company_id: None,
            payment_type: None,
            truck_number: None,
            license_number: None,
            language: Text::lossy("en"),
            timezone: Tz(chrono_tz::UTC),
            status: AccountStatus::Pending,
            created_at: now,
            registered_at: None,
            last_login_at: None,
            version: 1,
        }
    }

    pub(super) fn find(tx: &Tx<'_>, user_id: Id) -> Result<Self, HandlerError> {
        let user = tx.document(
            "SELECT doc FROM user WHERE user_id = ?1",
            params![user_id.to_string()],
        )?;
        let user = user.map(|user: Self| user.judged(tx)).transpose()?;
        user.ok_or_else(|| {
            Rejection::new(Code::NotFound, format!("there is no user {user_id}")).into()
        })
    }

    /// Whose number it is.
    pub(super) fn of_phone(tx: &mut Tx<'_>, phone: &E164) -> Result<Option<Self>, Error> {
        let user = tx.document(
            "SELECT doc FROM user WHERE phone IN (?1, ?2)",
            params![tx.blind(phone.as_str())?, phone.as_str()],
        )?;
        let user = user.map(|user: Self| user.judged(tx)).transpose()?;
        match user {
            // The number is free again.
            Some(user) if user.status == AccountStatus::Erased => user.bury(tx).map(|()| None),
            user => Ok(user),
        }
    }

    /// The account as it counts: an older one's personal fields sealed; and erased, where they can't be read any more. A
    /// database that was restored from before the erasure has such.
    pub(super) fn judged(mut self, tx: &Tx<'_>) -> Result<Self, Error> {
        self.seal(tx)?;
        let readable = match &self.phone {
            Some(phone) => tx.reveal(phone)?.is_some(),
            None => true,
        };
        if !readable {
            self.forget();
        }
        Ok(self)
    }

    /// Seals what is personal.
    pub(super) fn seal(&mut self, tx: &Tx<'_>) -> Result<(), Error> {
        let id = self.user_id;
        macro_rules! seal {
            ($($field:ident)+) => {$(
                if let Some(value) = self.$field.take() {
                    self.$field = Some(tx.sealed(&id, value)?);
                }
            )+};
        }
        seal!(phone name email truck_number license_number);
        Ok(())
    }

    /// Leaves of it only that it was there.
    pub(super) fn forget(&mut self) {
        self.status = AccountStatus::Erased;
        self.phone = None;
        self.name = None;
        self.email = None;
        self.truck_number = None;
        self.license_number = None;
    }

    /// Forgets in the tables, too, whose erasure a restored database does not know of. It was told when it was done.
    pub(super) fn bury(mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.save(tx)?;
        super::session::forget(tx, self.user_id)
    }

    pub(super) fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.seal(tx)?;
        let phone = match &self.phone {
            Some(phone) => tx.reveal(phone)?,
            None => None,
        };
        let phone = phone.map(|phone| tx.blind(phone.as_str())).transpose()?;
        let doc = tx.text(self)?;
        let seen_at = self.last_login_at.unwrap_or(self.created_at);
        tx.execute(
            "INSERT INTO user (user_id, phone, role, status, created_at_ms, seen_at_ms, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (user_id)
             DO UPDATE SET phone = ?2, role = ?3, status = ?4, seen_at_ms = ?6, doc = ?7",
            params![
                self.user_id.to_string(),
                phone,
                self.role.as_str(),
                self.status.as_str(),
                self.created_at.ms(),
                seen_at.ms(),
                doc
            ],
        )?;
        Ok(())
    }

    /// Moves the account along the state table.
    pub(super) fn become_status(&mut self, to: AccountStatus) -> Result<(), Rejection> {
        if !legal(self.status, to) {
            let message = format!("an account that is {} can't become {to}", self.status);
            return Err(Rejection::new(Code::InvalidTransition, message)
                .with_details(json!({ "status": self.status })));
        }
        self.status = to;
        Ok(())
    }

    /// VERSION_CONFLICT unless `expected` is the account's version.
    pub(super) fn expect_version(&self, expected: u64) -> Result<(), Rejection> {
        if expected == self.version {
            return Ok(());
        }
        let message = format!("the account has version {}, not {expected}", self.version);
        Err(Rejection::new(Code::VersionConflict, message)
            .with_details(json!({ "version": self.version })))
    }

    /// Saves an account that has just become active and tells of it.
    pub(super) fn registered(&mut self, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
        self.save(tx)?;
        let known = self.known()?;
        tx.emit(&known)?;
        Ok(())
    }

    /// Saves a changed account as its next version and tells which fields changed.
    pub(super) fn updated(
        &mut self,
        tx: &mut Tx<'_>,
        changed: Vec<Text<64>>,
    ) -> Result<(), HandlerError> {
        let Ok(changed_fields) = List::new(changed) else {
            // Nothing changed.
            return Ok(());
        };
        self.version += 1;
        self.save(tx)?;
        let now = self.known()?;
        tx.emit(&UserUpdated {
            user_id: now.user_id,
            phone: now.phone,
            role: now.role,
            name: now.name,
            email: now.email,
            company_id: now.company_id,
            payment_type: now.payment_type,
            language: now.language,
            timezone: now.timezone,
            status: now.status,
            profile_version: now.profile_version,
            registered_at: now.registered_at,
            changed_fields,
        })?;
        Ok(())
    }

    /// The account as events tell it, while it is active or suspended.
    fn known(&self) -> Result<UserRegistered, HandlerError> {
        let status = match self.status {
            AccountStatus::Active => UserStatus::Active,
            AccountStatus::Suspended => UserStatus::Suspended,
            AccountStatus::Pending | AccountStatus::Erased => {
                let message = format!("an account that is {} has no news", self.status);
                return Err(HandlerError::Transient(message));
            }
        };
        let (Some(phone), Some(name)) = (self.phone.clone(), self.name.clone()) else {
            let message = "an account that is not erased has a phone and a name";
            return Err(HandlerError::Transient(message.to_owned()));
        };
        Ok(UserRegistered {
            user_id: self.user_id,
            phone,
            role: self.role,
            name,
            email: self.email.clone(),
            company_id: self.company_id,
            payment_type: self.payment_type,
            language: self.language.clone(),
            timezone: self.timezone,
            status,
            profile_version: Count1::new(self.version.max(1))
                .map_err(|error| HandlerError::Transient(error.to_string()))?,
            registered_at: self.registered_at.unwrap_or(self.created_at),
        })
    }
}

/// Names of the fields in which two forms of an account differ.
pub(super) fn changes(before: &User, after: &User) -> Vec<Text<64>> {
    let values = |user: &User| serde_json::to_value(user).unwrap_or(Value::Null);
    let (before, after) = (values(before), values(after));
    let names = [&before, &after].into_iter().filter_map(Value::as_object);
    let mut names: Vec<&String> = names.flat_map(|map| map.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| Text::lossy(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sixteen_pairs_of_an_account_follow_the_table() {
        use AccountStatus as S;
        let wanted = [
            (S::Pending, S::Active),
            (S::Active, S::Suspended),
            (S::Suspended, S::Active),
            (S::Pending, S::Erased),
            (S::Active, S::Erased),
            (S::Suspended, S::Erased),
        ];
        for from in S::ALL {
            for to in S::ALL {
                let is = legal(*from, *to);
                assert_eq!(is, wanted.contains(&(*from, *to)), "{from} {to}");
            }
        }
    }
}
