//! Whose site something is, and for whom this one makes what is missing there (DESIGN 8, Home).

use std::collections::BTreeSet;

use rusqlite::params;

use super::{Class, Error, Store, Tx};
use crate::event::{Id, Site};

impl Store {
    /// Makes what these sites lack the role for, from the next input on.
    pub fn stand_in_for(&mut self, sites: BTreeSet<Site>) {
        self.stands_in_for = sites;
    }

    /// Remembers an incident's home, if it has none yet.
    fn keep_home(&self, incident: Id, home: &Site) -> Result<(), Error> {
        self.run(
            "keeping an incident's home",
            "INSERT INTO home (incident_id, site) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![incident.to_string(), home.as_str()],
        )?;
        Ok(())
    }

    /// The home of an incident for which this role stood in.
    fn home_of(&self, incident: Id) -> Result<Option<Site>, Error> {
        let what = "reading an incident's home";
        let sql = "SELECT site FROM home WHERE incident_id = ?1";
        let name: Option<String> = self.value(what, sql, params![incident.to_string()])?;
        name.map(|name| {
            Site::new(name).map_err(|error| self.error(Class::Corrupt, what, error.to_string()))
        })
        .transpose()
    }
}

impl Tx<'_> {
    /// Home site of the chain of causes: this site unless the input says otherwise.
    #[must_use]
    pub fn home(&self) -> &Site {
        self.context
            .origin
            .home
            .as_ref()
            .unwrap_or(&self.store.options.site)
    }

    /// Whether it is this site's to make what follows from the input: a case, a session, a payment, a message. The home
    /// site does, or this one where the home lacks the role. Then the incident's home is kept: a command about what is
    /// made here says nothing of it, and who makes what follows from that depends on it.
    ///
    /// # Errors
    /// A store error.
    pub fn creates(&self) -> Result<bool, Error> {
        let home = self.home();
        if home == self.site() {
            return Ok(true);
        }
        if !self.store.stands_in_for.contains(home) {
            return Ok(false);
        }
        if let Some(incident) = self.context.origin.correlation {
            self.store.keep_home(incident, home)?;
        }
        Ok(true)
    }

    /// Names the incident that this input turned out to be about: later events carry it as `correlation`, and its home if
    /// that is another site.
    ///
    /// # Errors
    /// A store error.
    pub fn correlate(&mut self, incident: Id) -> Result<(), Error> {
        let origin = &mut self.context.origin;
        origin.correlation = Some(incident);
        if origin.home.is_none() {
            origin.home = self.store.home_of(incident)?;
        }
        self.follow(incident);
        Ok(())
    }
}
