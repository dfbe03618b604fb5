//! The contact directory (DOMAIN 5.6): this role's own copy of who can be reached where, built from events.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::table::To;
use crate::event::{
    DevicePlatform, E164, Email, Id, Personal, Text, Tz, UserRegistered, UserRole, UserStatus,
    UserUpdated, VendorRegistered, VendorUpdated,
};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATION: &str = "
CREATE TABLE contact (
    user_id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    company_id TEXT NOT NULL,
    active INTEGER NOT NULL,
    phone TEXT,
    doc TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX contact_group ON contact (role, company_id, active);
CREATE INDEX contact_phone ON contact (phone) WHERE phone IS NOT NULL;
";

/// Devices that one person may have.
pub const DEVICES_MAX: usize = 10;

/// What stands for the name of a vendor who is erased and had no business.
const ERASED_VENDOR: &str = "The vendor";

fn revealed<T: DeserializeOwned + Clone>(
    tx: &Tx<'_>,
    value: Option<&Personal<T>>,
) -> Result<Option<T>, Error> {
    Ok(value.map(|value| tx.reveal(value)).transpose()?.flatten())
}

/// What an account says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Account {
    version: u64,
    role: UserRole,
    name: Personal<Text<120>>,
    phone: Personal<E164>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<Personal<Email>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    company_id: Option<Id>,
    language: Text<8>,
    timezone: Tz,
    status: UserStatus,
}

/// What a vendor's profile says. It is for his business: where both speak, it goes before the account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Business {
    version: u64,
    #[serde(skip)]
    name: Option<Text<200>>,
    phone: Personal<E164>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<Personal<Email>>,
    timezone: Tz,
}

/// A telephone or browser that takes push messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The push service's name for it.
    pub token: String,
    /// What it runs.
    pub platform: DevicePlatform,
}

/// A person and how to reach him. What is personal of it rests sealed for him, and is opened where a message is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contact {
    /// Who.
    pub user_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<Account>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) business: Option<Business>,
    /// What a vendor's business is called: not personal, so it stays after an erasure.
    #[serde(skip_serializing_if = "Option::is_none")]
    business_name: Option<Text<200>>,
    /// His devices, oldest first.
    #[serde(default = "no_devices")]
    pub devices: Personal<Vec<Device>>,
    /// Erased: nothing is sent any more, and nothing that comes late brings him back.
    #[serde(default)]
    pub erased: bool,
}

fn no_devices() -> Personal<Vec<Device>> {
    Personal::plain(Vec::new())
}

impl Contact {
    fn new(user_id: Id) -> Self {
        Self {
            user_id,
            account: None,
            business: None,
            business_name: None,
            devices: no_devices(),
            erased: false,
        }
    }

    /// Whether anything is known of him, or that nothing may be.
    #[must_use]
    pub fn known(&self) -> bool {
        self.erased || self.account.is_some() || self.business.is_some()
    }

    fn sealed_phone(&self) -> Option<&Personal<E164>> {
        let of_business = self.business.as_ref().map(|business| &business.phone);
        let of_account = || self.account.as_ref().map(|account| &account.phone);
        of_business.or_else(of_account)
    }

    /// His phone, where it can be read.
    ///
    /// # Errors
    /// A store error; [`crate::store::Class::NoKey`].
    pub fn phone(&self, tx: &Tx<'_>) -> Result<Option<E164>, Error> {
        revealed(tx, self.sealed_phone())
    }

    /// His devices that can be read, oldest first.
    ///
    /// # Errors
    /// As [`Contact::phone`].
    pub fn devices(&self, tx: &Tx<'_>) -> Result<Vec<Device>, Error> {
        Ok(tx.reveal(&self.devices)?.unwrap_or_default())
    }

    /// His e-mail address, where he has one that can be read.
    ///
    /// # Errors
    /// As [`Contact::phone`].
    pub fn email(&self, tx: &Tx<'_>) -> Result<Option<Email>, Error> {
        let of_business = self
            .business
            .as_ref()
            .and_then(|business| business.email.as_ref());
        let of_account = || {
            self.account
                .as_ref()
                .and_then(|account| account.email.as_ref())
        };
        revealed(tx, of_business.or_else(of_account))
    }

    /// The zone he lives in; UTC while nothing is known.
    #[must_use]
    pub fn timezone(&self) -> chrono_tz::Tz {
        let of_business = self.business.as_ref().map(|business| business.timezone.0);
        let of_account = || self.account.as_ref().map(|account| account.timezone.0);
        of_business.or_else(of_account).unwrap_or(chrono_tz::UTC)
    }

    /// The language he reads.
    #[must_use]
    pub fn language(&self) -> &str {
        self.account
            .as_ref()
            .map_or("en", |account| account.language.as_str())
    }

    /// What a vendor is called in messages to others: his business, or himself while he has no profile; nobody by name once he
    /// is erased.
    ///
    /// # Errors
    /// As [`Contact::phone`].
    pub fn vendor_name(&self, tx: &Tx<'_>) -> Result<Option<String>, Error> {
        if let Some(business) = &self.business_name {
            return Ok(Some(business.as_str().to_owned()));
        }
        if self.erased {
            return Ok(Some(ERASED_VENDOR.to_owned()));
        }
        let own = self.account.as_ref().map(|account| &account.name);
        Ok(revealed(tx, own)?.map(|name| name.as_str().to_owned()))
    }

    /// His company, if he belongs to one.
    #[must_use]
    pub fn company_id(&self) -> Option<Id> {
        self.account.as_ref()?.company_id
    }

    /// Whether he is a vendor.
    #[must_use]
    pub fn is_vendor(&self) -> bool {
        let by_account = |account: &Account| account.role == UserRole::Vendor;
        self.business.is_some() || self.account.as_ref().is_some_and(by_account)
    }

    /// Reads one.
    ///
    /// # Errors
    /// A store error.
    pub fn find(tx: &Tx<'_>, user_id: Id) -> Result<Option<Self>, Error> {
        let sql = "SELECT doc FROM contact WHERE user_id = ?1";
        let found: Option<Self> = tx.document(sql, params![user_id.to_string()])?;
        found.map(|contact| contact.judged(tx)).transpose()
    }

    /// The contact as it counts: erased, where his number can't be read any more. His erasure is on its way then, or the
    /// database was restored from before it.
    fn judged(mut self, tx: &Tx<'_>) -> Result<Self, Error> {
        let lost = match self.sealed_phone() {
            Some(phone) => tx.reveal(phone)?.is_none(),
            None => false,
        };
        if lost {
            self.forget();
        }
        Ok(self)
    }

    /// Leaves of him only that there was one, and what his business is called.
    fn forget(&mut self) {
        self.erased = true;
        self.account = None;
        self.business = None;
        self.devices = no_devices();
    }

    /// The same, or one of whom nothing is known yet.
    ///
    /// # Errors
    /// A store error.
    pub fn find_or_new(tx: &Tx<'_>, user_id: Id) -> Result<Self, Error> {
        Ok(Self::find(tx, user_id)?.unwrap_or_else(|| Self::new(user_id)))
    }

    /// Everybody with this phone number who is not erased.
    ///
    /// # Errors
    /// A store error.
    pub fn with_phone(tx: &Tx<'_>, phone: &E164) -> Result<Vec<Self>, Error> {
        let sql = "SELECT doc FROM contact WHERE phone IN (?1, ?2) ORDER BY user_id";
        let params = params![tx.blind(phone.as_str())?, phone.as_str()];
        kept(tx, tx.documents(sql, params)?)
    }

    /// Seals what is personal and came plain.
    fn seal(&mut self, tx: &Tx<'_>) -> Result<(), Error> {
        let id = self.user_id;
        if let Some(account) = &mut self.account {
            account.name = tx.sealed(&id, account.name.clone())?;
            account.phone = tx.sealed(&id, account.phone.clone())?;
            let email = account.email.take().map(|email| tx.sealed(&id, email));
            account.email = email.transpose()?;
        }
        if let Some(business) = &mut self.business {
            business.phone = tx.sealed(&id, business.phone.clone())?;
            let email = business.email.take().map(|email| tx.sealed(&id, email));
            business.email = email.transpose()?;
        }
        let none = self.devices.as_plain().is_some_and(Vec::is_empty);
        if !none {
            self.devices = tx.sealed(&id, self.devices.clone())?;
        }
        Ok(())
    }

    /// Writes it.
    ///
    /// # Errors
    /// A store error.
    pub fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.seal(tx)?;
        let doc = tx.text(self)?;
        let phone = self.phone(tx)?;
        let phone = phone.map(|phone| tx.blind(phone.as_str())).transpose()?;
        let role = self
            .account
            .as_ref()
            .map_or("", |account| account.role.as_str());
        let active = |account: &Account| account.status == UserStatus::Active;
        let active = !self.erased && self.account.as_ref().is_some_and(active);
        let company = self.company_id().map(|id| id.to_string());
        tx.execute(
            "INSERT INTO contact (user_id, role, company_id, active, phone, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (user_id) DO UPDATE SET role = ?2, company_id = ?3, active = ?4, phone = ?5, doc = ?6",
            params![
                self.user_id.to_string(),
                role,
                company.unwrap_or_default(),
                active,
                phone,
                doc
            ],
        )?;
        Ok(())
    }
}

/// Takes an account over unless a newer one, or an erasure, is there.
pub(super) fn take_account(tx: &mut Tx<'_>, user_id: Id, account: Account) -> Result<(), Error> {
    let mut contact = Contact::find_or_new(tx, user_id)?;
    let newer = |known: &Account| known.version >= account.version;
    if contact.erased || contact.account.as_ref().is_some_and(newer) {
        return Ok(());
    }
    contact.account = Some(account);
    contact.save(tx)
}

/// The same for a vendor's profile.
pub(super) fn take_business(
    tx: &mut Tx<'_>,
    user_id: Id,
    mut business: Business,
) -> Result<(), Error> {
    let mut contact = Contact::find_or_new(tx, user_id)?;
    let newer = |known: &Business| known.version >= business.version;
    if contact.erased || contact.business.as_ref().is_some_and(newer) {
        return Ok(());
    }
    contact.business_name = business.name.take();
    contact.business = Some(business);
    contact.save(tx)
}

macro_rules! account_of {
    ($($event:ident),+) => {$(
        impl From<&$event> for Account {
            fn from(event: &$event) -> Self {
                Self {
                    version: event.profile_version.get(),
                    role: event.role,
                    name: event.name.clone(),
                    phone: event.phone.clone(),
                    email: event.email.clone(),
                    company_id: event.company_id,
                    language: event.language.clone(),
                    timezone: event.timezone,
                    status: event.status,
                }
            }
        }
    )+};
}
account_of!(UserRegistered, UserUpdated);

macro_rules! business_of {
    ($($event:ident),+) => {$(
        impl From<&$event> for Business {
            fn from(event: &$event) -> Self {
                Self {
                    version: event.profile_version.get(),
                    name: Some(event.business_name.clone()),
                    phone: event.phone.clone(),
                    email: event.email.clone(),
                    timezone: event.timezone,
                }
            }
        }
    )+};
}
business_of!(VendorRegistered, VendorUpdated);

/// Forgets a person: only that there was one, and what his business is called, stays.
pub(super) fn erase(tx: &mut Tx<'_>, user_id: Id) -> Result<(), Error> {
    let mut contact = Contact::find_or_new(tx, user_id)?;
    contact.forget();
    contact.save(tx)
}

/// The people of a group (DOMAIN 5.6: dispatchers = back office).
///
/// # Errors
/// A store error.
pub(super) fn group(tx: &Tx<'_>, to: To, company: Option<Id>) -> Result<Vec<Id>, Error> {
    let company = company.map(|id| id.to_string()).unwrap_or_default();
    let dispatchers = |tx: &Tx<'_>, company: &str| members(tx, UserRole::Dispatcher, Some(company));
    if to == To::Dispatchers {
        let own = dispatchers(tx, &company)?;
        if !own.is_empty() {
            return Ok(own);
        }
        let platform = dispatchers(tx, "")?;
        if !platform.is_empty() {
            return Ok(platform);
        }
    }
    members(tx, UserRole::Admin, None)
}

fn members(tx: &Tx<'_>, role: UserRole, company: Option<&str>) -> Result<Vec<Id>, Error> {
    let contacts: Vec<Contact> = tx.documents(
        "SELECT doc FROM contact WHERE role = ?1 AND active = 1 AND (?2 IS NULL OR company_id = ?2) ORDER BY user_id",
        params![role.as_str(), company],
    )?;
    let people = kept(tx, contacts)?.into_iter();
    Ok(people.map(|contact| contact.user_id).collect())
}

/// Those who are not erased.
fn kept(tx: &Tx<'_>, contacts: Vec<Contact>) -> Result<Vec<Contact>, Error> {
    let mut people = Vec::with_capacity(contacts.len());
    for contact in contacts {
        let contact = contact.judged(tx)?;
        if !contact.erased {
            people.push(contact);
        }
    }
    Ok(people)
}
