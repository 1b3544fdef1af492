//! The statement that a group is, or begins with: `[Parse] Bind [Describe portal] Execute`.

use crate::wire::frontend::{self, Bind, Parse, Target};

use super::group::Group;
use super::session::Session;
use super::statements::Prepared;

/// The statement at the front of an extended group, run through the unnamed portal.
pub(super) struct Single<'a> {
    pub(super) parse: Option<Parse<'a>>,
    pub(super) bind: Bind<'a>,
    /// Describe of the portal was asked for.
    pub(super) describe: bool,
    /// Of its Execute; 0 for all.
    rows_max: u32,
}

/// The group as one read: `[Parse] Bind [Describe portal] Execute Sync`, unnamed portal, all rows.
pub(super) fn single(group: &Group) -> Option<Single<'_>> {
    let (single, count) = front(group)?;
    let rest = group.parts.get(count..).unwrap_or_default();
    let alone = matches!(rest, [sync] if sync.tag == frontend::SYNC);
    (alone && single.rows_max == 0).then_some(single)
}

/// The statement at the front of the group and how many messages it is.
pub(super) fn front(group: &Group) -> Option<(Single<'_>, usize)> {
    let mut parts = group.parts.iter().peekable();
    let parse = match parts.peek()?.tag {
        frontend::PARSE => Some(Parse::read(group.body(parts.next()?)).ok()?),
        _ => None,
    };
    let bind = parts.next().filter(|part| part.tag == frontend::BIND)?;
    let bind = Bind::read(group.body(bind)).ok()?;
    let parsed_it = parse.as_ref().is_none_or(|parse| parse.name == bind.statement);
    if !bind.portal.is_empty() || !parsed_it {
        return None;
    }
    let mut describe = false;
    if parts.peek()?.tag == frontend::DESCRIBE {
        let target = frontend::target(group.body(parts.next()?)).ok()?;
        if target != (Target::Portal, &b""[..]) {
            return None;
        }
        describe = true;
    }
    let execute = parts.next().filter(|part| part.tag == frontend::EXECUTE)?;
    let (portal, rows_max) = frontend::execute(group.body(execute)).ok()?;
    let count = group.parts.len() - parts.len();
    portal.is_empty().then_some((Single { parse, bind, describe, rows_max }, count))
}

impl Session {
    /// The statement a single read runs, as the client named it or as it parses it just now.
    pub(super) fn prepared_for(&mut self, single: &Single<'_>) -> Option<Prepared> {
        match &single.parse {
            // A second Parse of a live name is an error that PostgreSQL shall raise.
            Some(parse) if !parse.name.is_empty() && self.names.find(parse.name).is_some() => None,
            Some(parse) => Some(Prepared {
                statement: self.statement(parse.name, parse.sql, parse.types),
                generation: 0,
            }),
            None => self.names.find(single.bind.statement).cloned(),
        }
    }
}
