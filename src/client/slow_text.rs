//! What is kept of the text of a slow statement, and why there is no plan of it to be had; and an
//! example of what is repeated. Shown to those alone who may see literals (hazards J7, J15).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cache::entry::low_half;
use crate::cache::key::statement_of;
use crate::insight::{Kept, NoPlan};
use crate::sql::lex::highest_parameter;
use crate::sql::plan::{is_data, may_be_read};
use crate::wire::frontend::Parse;

use super::registry::Entry;
use super::session::Session;
use super::underway::{Running, Shape};
use super::verify::bound;

/// Most statements that people write are shorter; what a program made is no reading.
const TEXT_BYTES_MAX: usize = 4096;

/// More types than a text of that length can name parameters.
const TYPES_MAX: usize = 1024;

/// Names and values of what a session has set. A driver sets a tenth of it; up to a thousand slow
/// statements are kept.
const SETTINGS_BYTES_MAX: usize = 16 << 10;

/// The text if it is at hand, and what speaks against a plan.
pub(super) fn kept(
    session: &Session,
    entry: &Entry,
    running: &Running,
) -> (Option<Kept>, Option<NoPlan>) {
    let (text, types, shape) = match &running.shape {
        // The next text takes the place of this one: only what is sent behind it loses it.
        Shape::Text(_) if running.text == session.work.texts => {
            (session.work.lexed.text.as_slice(), &[][..], &[][..])
        }
        Shape::Prepared(statement) => match &statement.lexed {
            Some(lexed) => (lexed.text.as_slice(), &*statement.types, lexed.shape.as_slice()),
            None => return (None, Some(NoPlan::NotAtHand)),
        },
        Shape::Text(_) | Shape::Unknown => return (None, Some(NoPlan::NotAtHand)),
    };
    let Ok(text) = std::str::from_utf8(text) else { return (None, Some(NoPlan::NotAtHand)) };
    let types: Vec<u32> = Parse::type_oids(types).collect();
    let settings = &session.settings.values;
    let no_plan = if text.is_empty() {
        Some(NoPlan::NotAtHand)
    } else if !may_be_read(text) {
        Some(NoPlan::NotARead)
    } else if is_several(&running.shape) {
        Some(NoPlan::Several)
    } else if running.writes {
        Some(NoPlan::MayWrite)
    } else if text.len() > TEXT_BYTES_MAX || types.len() > TYPES_MAX {
        Some(NoPlan::TooLong)
    } else if bytes_of(settings) > SETTINGS_BYTES_MAX {
        Some(NoPlan::SettingsTooLong)
    } else {
        None
    };
    let declared = u32::try_from(types.len()).unwrap_or(u32::MAX);
    let kept = is_data(text).then(|| Kept {
        text: text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned(),
        parameters: highest_parameter(shape).max(declared),
        types: if no_plan.is_none() { types } else { Vec::new() },
        settings: if no_plan.is_none() { settings.clone() } else { BTreeMap::new() },
        server_user: Arc::clone(&entry.server_user),
    });
    (kept, no_plan)
}

fn bytes_of(settings: &BTreeMap<String, String>) -> usize {
    settings.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Longest example of a repeated statement.
const EXAMPLE_BYTES_MAX: usize = 512;

/// The statement as it was sent, or what was bound to it, if either is still at hand.
pub(super) fn example(session: &Session, running: &Running) -> Option<String> {
    let mut example = match &running.shape {
        Shape::Text(_) if running.text == session.work.texts => {
            std::str::from_utf8(&session.work.lexed.text).ok()?.to_owned()
        }
        // The key of the latest look-up, if that was this one's.
        Shape::Prepared(_) => {
            let key = &session.work.key;
            let is_its = low_half(key.hash()) == running.values;
            bound(&statement_of(key.bytes()).filter(|_| is_its)?).join(", ")
        }
        Shape::Text(_) | Shape::Unknown => return None,
    };
    example.truncate(example.floor_char_boundary(EXAMPLE_BYTES_MAX));
    (!example.is_empty()).then_some(example)
}

fn is_several(shape: &Shape) -> bool {
    matches!(shape, Shape::Text(known) if known.verdict.statements > 1)
}
