//! In a group: before anything is answered here the group is asked whether what is known here is
//! what all know, unless it has said so for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::group::check::Check;
use crate::cache::group::shared::Group;
use crate::sql::verdict::{BypassReason, Read, TableId, Verdict};

use super::look_up::Answer;
use super::session::Session;

/// How often one request asks; each time because the catalogue has changed meanwhile.
const CHECKS_MAX: u8 = 3;

/// What the group was asked for the request being answered.
#[derive(Debug, Default)]
pub struct Asked {
    checked: Checked,
    times: u8,
    /// It is to be asked now.
    pub due: bool,
}

/// What it said.
#[derive(Debug, Default, PartialEq, Eq)]
enum Checked {
    #[default]
    NotAsked,
    /// What is known here of these tables, and of the catalogue, is what all know.
    Known(Box<[TableId]>),
    /// It did not say.
    Shut,
}

/// Whether an answer may be given here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Known,
    /// The group is to be asked first.
    Ask,
    Shut,
}

impl Session {
    /// Why an answer that this verdict is on is not looked up, if it is the group's doing; for now
    /// only, if `Asked::due` says so.
    pub(super) fn group_bypass(&mut self, verdict: &Verdict, now: Instant) -> Option<BypassReason> {
        if !self.common.cache.in_group {
            return None;
        }
        let tables = match &verdict.read {
            Read::Cacheable(tables) => &**tables,
            Read::Bypass(_) => &[],
        };
        let says = self.group_says_of(tables, now);
        self.work.asked.due = says == Says::Ask;
        (says != Says::Known).then_some(BypassReason::GroupShut)
    }

    /// Of an answer that depends on the catalogue and these tables.
    pub(super) fn group_says_of(&mut self, tables: &[TableId], now: Instant) -> Says {
        if !self.common.cache.in_group {
            return Says::Known;
        }
        match &self.work.asked.checked {
            Checked::Known(known) if tables.iter().all(|table| known.contains(table)) => {
                return Says::Known;
            }
            Checked::Shut => return Says::Shut,
            Checked::Known(_) | Checked::NotAsked => {}
        }
        let Some(group) = self.home_group() else { return Says::Shut };
        if !self.facts.as_ref().is_some_and(|facts| group.is_at(facts.place)) {
            return Says::Shut;
        }
        if group.is_granted(now) {
            return Says::Known;
        }
        if self.work.asked.times >= CHECKS_MAX {
            return Says::Shut;
        }
        self.work.asked.times += 1;
        self.work.asked.checked = Checked::Known(tables.into());
        Says::Ask
    }

    fn home_group(&self) -> Option<Arc<Group>> {
        self.common.database.home().group.clone()
    }

    /// The question that the request has to ask, and how long it waits for the answer.
    pub fn check(&self) -> Option<(Arc<Check>, Duration)> {
        let Checked::Known(tables) = &self.work.asked.checked else { return None };
        let group = self.home_group()?;
        Some((group.check(tables), group.settings.read_timeout))
    }

    /// Answers the group of messages after the group of Forebays was asked; `holds`: it said that
    /// all is known here.
    pub fn answer_checked(&mut self, holds: bool, now: Instant, out: &mut Vec<u8>) -> Answer {
        if !holds {
            self.work.asked.checked = Checked::Shut;
        }
        let answer = self.answer_group(true, now, out);
        if answer == Answer::Done {
            self.work.group.clear();
        }
        answer
    }
}
