//! The tables known to the cache, for `SHOW CACHE_TABLES`: slots, what is in memory over them,
//! and the rules that concern them, brought together by object id.

use std::collections::HashMap;
use std::sync::Arc;

use crate::admin::snapshot::CacheTable;
use crate::cache::memory::Live;
use crate::pool::database::Database;
use crate::sql::verdict::{Restriction, TableId};

use super::collect::Collector;

impl Collector<'_> {
    pub fn cache_tables(&self) -> Vec<CacheTable> {
        let live = self.gateway.cache.live();
        let mut shown = Vec::new();
        let mut homes = Vec::new();
        for (database, _) in self.gateway.databases() {
            let home = database.home();
            // Several names may lead there.
            if !homes.iter().any(|seen| Arc::ptr_eq(seen, &home)) {
                self.tables_of(&database, &live, &mut shown);
                homes.push(home);
            }
        }
        shown
    }

    fn tables_of(
        &self,
        database: &Database,
        live: &HashMap<u64, Live>,
        shown: &mut Vec<CacheTable>,
    ) {
        let snapshot = database.snapshot();
        let mut rules: HashMap<TableId, &Restriction> = HashMap::new();
        let mut names: HashMap<u32, (&str, &str)> = HashMap::new();
        if let Some(catalog) = &snapshot.catalog {
            rules.extend(snapshot.restrictions.tables(catalog));
            names.extend(catalog.names().map(|(schema, name, oid)| (oid, (schema, name))));
        }
        let row = |table: Option<TableId>, rule: Option<&Restriction>| CacheTable {
            database: database.name.clone(),
            name: table.map(|table| match names.get(&table.0) {
                Some((schema, name)) => ((*schema).to_owned(), (*name).to_owned()),
                // Dropped, or the catalogue is being read.
                None => (String::new(), table.0.to_string()),
            }),
            denied_by: rule.and_then(|rule| rule.denied_by.as_deref().map(str::to_owned)),
            max_age: rule.and_then(|rule| rule.max_age),
            ..CacheTable::default()
        };
        for slot in snapshot.home.coherence.slots() {
            let rule = slot.table().and_then(|table| rules.remove(&table));
            let live = live.get(&slot.epoch()).copied().unwrap_or_default();
            let cut_off = slot.cut_off();
            shown.push(CacheTable {
                entries: live.entries,
                bytes: live.bytes,
                hits: live.hits + slot.hits_of_the_past(),
                fills: slot.fills(),
                // A slot begins at 1.
                invalidations: slot.generation().saturating_sub(1),
                in_flight: slot.in_flight(),
                cut_off: cut_off.map(|cut_off| (self.time_of_day(cut_off.since), cut_off)),
                ..row(slot.table(), rule)
            });
        }
        shown.extend(rules.into_iter().map(|(table, rule)| row(Some(table), Some(rule))));
    }
}
