//! A client's names: its prepared statements and portals, and what they stand for.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pool::statements::Statement;

/// A name a client gave, and what it stands for.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub statement: Arc<Statement>,
    /// Catalogue generation under which PostgreSQL last accepted it for this client; an answer
    /// of another shape must not be served to a handle described with the old one (hazard G22).
    pub generation: u64,
}

/// A portal and the statement it runs.
#[derive(Clone, Debug)]
pub struct Portal {
    pub statement: Option<Arc<Statement>>,
    /// Its name, if it was prepared under an older catalogue.
    pub stale: Option<Box<[u8]>>,
}

/// The names of one client.
#[derive(Debug, Default)]
pub struct Names {
    pub prepared: HashMap<Box<[u8]>, Prepared>,
    pub unnamed: Option<Prepared>,
    pub portals: HashMap<Box<[u8]>, Portal>,
}

impl Names {
    pub fn find(&self, name: &[u8]) -> Option<&Prepared> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.prepared.get(name) }
    }

    pub fn find_mut(&mut self, name: &[u8]) -> Option<&mut Prepared> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.prepared.get_mut(name) }
    }

    pub fn insert(&mut self, name: &[u8], prepared: Prepared) {
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
                self.prepared.remove(name);
            }
        }
    }
}
