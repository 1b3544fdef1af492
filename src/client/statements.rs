//! A client's names: its prepared statements and portals, and what they stand for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pool::statements::Statement;

use super::session::Session;

/// A name a client gave, and what it stands for.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub statement: Arc<Statement>,
    /// Catalogue generation under which PostgreSQL last accepted it for this client; an answer
    /// of another shape must not be served to a handle described with the old one (hazard G22).
    pub generation: u64,
}

/// What a name stood for.
#[derive(Debug)]
pub struct Closed {
    prepared: Prepared,
    told: Option<Arc<Statement>>,
}

/// A portal and the statement it runs.
#[derive(Clone, Debug)]
pub struct Portal {
    pub statement: Option<Arc<Statement>>,
    /// Its name, if it was prepared under an older catalogue.
    pub stale: Option<Box<[u8]>>,
    /// It was run before, for some of its rows.
    pub begun: bool,
}

/// The names of one client.
#[derive(Debug, Default)]
pub struct Names {
    pub prepared: BTreeMap<Box<[u8]>, Prepared>,
    pub unnamed: Option<Prepared>,
    /// The unnamed statement made last, and the generation it was made under.
    made: Option<Prepared>,
    /// What names stood for when the client parsed them, of those that stand for the same text
    /// under other settings now, or were parsed as no other client may see them.
    told: BTreeMap<Box<[u8]>, Arc<Statement>>,
    /// The statement parsed last, until it is run if it says which request it is for; 0: none.
    pub parsed: u64,
    portals: BTreeMap<Box<[u8]>, Portal>,
    /// Nearly every portal there is.
    unnamed_portal: Option<Portal>,
}

impl Session {
    /// Named statements are shared by the pool, unnamed ones are the client's own. A text that it
    /// parses again stands for the same statement, which spares reading it again; but not while
    /// an earlier Parse of it may fail, for that must not undo the later one.
    pub fn statement(&mut self, name: &[u8], sql: &[u8], types: &[u8]) -> Arc<Statement> {
        let generation = self.common.database.generation();
        let settings = &self.settings;
        if self.sees_own_catalog() {
            self.names.made = None;
            return Arc::new(Statement::of_session(sql, types, settings));
        }
        if !name.is_empty() {
            let statement = self.common.statements.intern(sql, types, settings, generation);
            self.names.parsed = statement.id;
            return statement;
        }
        if let Some(Prepared { statement, generation: made_under }) = &self.names.made
            && *made_under == generation
            && statement.is_of(sql, types, settings.id)
            && self.work.requests.is_empty()
        {
            self.names.parsed = statement.id;
            return Arc::clone(statement);
        }
        let statement = Arc::new(Statement::new(sql, types, settings, generation));
        self.names.parsed = statement.id;
        self.names.made = (!statement.folds_at_parse())
            .then(|| Prepared { statement: Arc::clone(&statement), generation });
        statement
    }
}

impl Names {
    pub fn portal(&self, name: &[u8]) -> Option<&Portal> {
        if name.is_empty() { self.unnamed_portal.as_ref() } else { self.portals.get(name) }
    }

    /// It is run; gives whether it was before.
    pub fn begin_portal(&mut self, name: &[u8]) -> bool {
        let portal =
            if name.is_empty() { self.unnamed_portal.as_mut() } else { self.portals.get_mut(name) };
        portal.is_some_and(|portal| std::mem::replace(&mut portal.begun, true))
    }

    /// How many there are beside the unnamed one.
    pub fn named_portals(&self) -> usize {
        self.portals.len()
    }

    pub fn insert_portal(&mut self, name: &[u8], portal: Portal) {
        if name.is_empty() {
            self.unnamed_portal = Some(portal);
        } else {
            self.portals.insert(name.into(), portal);
        }
    }

    pub fn remove_portal(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed_portal = None;
        } else {
            self.portals.remove(name);
        }
    }

    /// A transaction has ended.
    pub fn clear_portals(&mut self) {
        self.unnamed_portal = None;
        if !self.portals.is_empty() {
            self.portals.clear();
        }
    }

    pub fn find(&self, name: &[u8]) -> Option<&Prepared> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.prepared.get(name) }
    }

    pub fn find_mut(&mut self, name: &[u8]) -> Option<&mut Prepared> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.prepared.get_mut(name) }
    }

    /// Whose signature the client was told of, if not that of the statement it stands for.
    pub fn told(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.told.get(name)
    }

    /// What PostgreSQL made of a name for this client.
    pub fn tell(&mut self, name: &[u8], statement: Statement) {
        if self.prepared.contains_key(name) {
            self.told.entry(name.into()).or_insert_with(|| Arc::new(statement));
        }
    }

    /// A name stands for the same text under other settings.
    pub fn replace(&mut self, name: &[u8], statement: &Arc<Statement>) {
        if let Some(prepared) = self.prepared.get_mut(name) {
            let before = std::mem::replace(&mut prepared.statement, Arc::clone(statement));
            self.told.entry(name.into()).or_insert(before);
        }
    }

    /// Forgets a name that the client has given, if there was one.
    pub fn close(&mut self, name: &[u8]) -> Option<Closed> {
        let told = self.told.remove(name);
        Some(Closed { prepared: self.prepared.remove(name)?, told })
    }

    /// It was not closed after all.
    pub fn reopen(&mut self, name: Box<[u8]>, closed: Closed) {
        if let Some(told) = closed.told {
            self.told.insert(name.clone(), told);
        }
        self.prepared.insert(name, closed.prepared);
    }

    pub fn insert(&mut self, name: &[u8], prepared: Prepared) {
        self.told.remove(name);
        if name.is_empty() {
            self.unnamed = Some(prepared);
        } else {
            self.prepared.insert(name.into(), prepared);
        }
    }

    /// Forgets a name if it still stands for this statement.
    pub fn remove(&mut self, name: &[u8], statement: u64) {
        if self.find(name).is_some_and(|prepared| prepared.statement.id == statement) {
            if name.is_empty() {
                self.unnamed = None;
            } else {
                self.close(name);
            }
        }
    }
}
