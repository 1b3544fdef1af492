//! The relations that a statement reads, those below its views and policies among them, and the tables
//! that its answer depends on for that.

use crate::sql::catalog::{Relation, RelationKind, Stored};
use crate::sql::parse::Range;
use crate::sql::reading::reading_runs_code;
use crate::sql::verdict::BypassReason;

use super::Resolver;

impl<'a> Resolver<'a> {
    pub(super) fn range(&mut self, range: &'a Range) {
        let relations = self.path.relations(self.catalog, &range.name);
        let cte = range.name.schema.is_none() && self.facts.ctes.contains(&range.name.name);
        if relations.is_empty() && !cte {
            self.outside(BypassReason::UnknownRelation);
        }
        for relation in &relations {
            if !self.seen.insert(relation.oid) {
                continue;
            }
            self.read(relation);
            if reading_runs_code(relation.oid, self.catalog, &mut self.looked) {
                self.outside(BypassReason::UserObject);
            }
        }
        self.ranges.push((range, relations));
    }

    fn read(&mut self, relation: &Relation) {
        self.restrict(relation);
        if relation.system {
            self.refuse(BypassReason::SystemCatalog);
            return;
        }
        match relation.kind {
            RelationKind::Table | RelationKind::MaterializedView => {
                let root = self.catalog.root(relation.oid);
                if self.resolved.tables.insert(root) {
                    self.catalog.tree(root).for_each(|member| self.read_member(member));
                }
            }
            RelationKind::View => self.follow(relation.oid),
            RelationKind::Foreign | RelationKind::Sequence => {
                self.refuse(BypassReason::RelationKind);
            }
        }
    }

    fn restrict(&mut self, relation: &Relation) {
        if let Some(restriction) = self.restrictions.of_relation(relation.oid) {
            self.resolved.restriction.and(restriction);
        }
    }

    /// A view is as good as its definition and all that it reads.
    fn follow(&mut self, view: u32) {
        if self.followed.insert(view) {
            match self.catalog.view(view) {
                Some(stored) => self.stored(stored),
                None => self.refuse(BypassReason::View),
            }
        }
    }

    pub(super) fn stored(&mut self, stored: &Stored) {
        if let Some(reason) = stored.refusal {
            self.refuse(reason);
        }
        for oid in &stored.relations {
            match self.catalog.relation(*oid) {
                Some(relation) => self.read(relation),
                None => self.outside(BypassReason::UnknownRelation),
            }
        }
    }

    fn read_member(&mut self, member: &Relation) {
        self.restrict(member);
        if member.kind == RelationKind::Foreign {
            self.outside(BypassReason::RelationKind);
        }
        if member.unlogged {
            self.refuse(BypassReason::RelationKind);
        }
        if member.row_security && self.followed.insert(member.oid) {
            self.row_security(member.oid);
        }
    }

    /// Who is asked for, and with which settings, is in the key: if the policies ask for nothing
    /// else, what they let through is an answer like any other.
    fn row_security(&mut self, table: u32) {
        let catalog = self.catalog;
        match catalog.policies(table) {
            Some(policies) if policies.refusal.is_some() => {
                self.refuse(BypassReason::RowSecurity);
            }
            Some(policies) => self.stored(policies),
            // Nothing is let through but to its owner.
            None => {}
        }
    }
}
