//! Performs one script on both sides and compares.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, Postgres, USER};
use crate::support::raw::{
    Login, RawClient, bind, copy_data, copy_done, copy_fail, describe_portal, execute, message,
    parse, query, show, sync,
};
use crate::support::wait_until;

use super::script::{Script, Step};

/// How statements without values are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Simple,
    /// Unnamed statement and portal; strings of several statements as in `Simple`.
    Extended,
}

/// What superusers set up may be the cluster's (roles, grants on parameters), and PostgreSQL
/// refuses two who change the same row of that at once.
static SUPERUSERS: Mutex<()> = Mutex::new(());

/// The client that talks to PostgreSQL itself.
const SUPERUSER: char = '@';

struct Side<'a> {
    script: &'a Script,
    manner: Manner,
    database: Database<'static>,
    forebay: Option<Forebay>,
    clients: HashMap<char, RawClient>,
}

impl<'a> Side<'a> {
    fn prepare(script: &'a Script, manner: Manner) -> Self {
        let changes_roles = script.superuser.iter().any(|sql| sql.contains("ROLE"));
        let database = if changes_roles {
            Postgres::shared_with_roles().database()
        } else {
            Postgres::shared().database()
        };
        let side = Self { script, manner, database, forebay: None, clients: HashMap::new() };
        let mut admin = side.database.admin();
        let alone = SUPERUSERS.lock().unwrap_or_else(PoisonError::into_inner);
        for sql in &script.superuser {
            admin.run(&side.text(sql));
        }
        drop(alone);
        let mut owner = side.database.direct();
        for sql in &script.setup {
            owner.run(&side.text(sql));
        }
        side
    }

    fn text(&self, sql: &str) -> String {
        let port = self.database.postgres.port.to_string();
        sql.replace("{db}", &self.database.name).replace("{port}", &port)
    }

    fn client(&mut self, name: char) -> &mut RawClient {
        if !self.clients.contains_key(&name) {
            let client = self.log_in(name);
            self.clients.insert(name, client);
        }
        self.clients.get_mut(&name).unwrap()
    }

    fn log_in(&self, name: char) -> RawClient {
        if name == SUPERUSER {
            return self.database.admin();
        }
        let mut login = Login::new(USER, PASSWORD, &self.database.name);
        for (_, parameters) in self.script.logins.iter().filter(|(client, _)| *client == name) {
            for (parameter, value) in parameters {
                login = login.with(&[(parameter, &self.text(value))]);
            }
        }
        let port = self.forebay.as_ref().map_or(self.database.postgres.port, |f| f.port);
        RawClient::log_in(port, &login).unwrap()
    }

    fn send(&mut self, step: &Step) -> usize {
        let (bytes, readies) = self.bytes(step);
        self.client(step.client).send(&bytes);
        readies
    }

    /// What the step sends, and how many times ReadyForQuery ends what it is answered.
    fn bytes(&self, step: &Step) -> (Vec<u8>, usize) {
        let sql = self.text(&step.sql);
        let pieces: Vec<&str> = sql.split(";;").map(str::trim).collect();
        let values: Vec<Option<String>> = (step.values.iter().flatten())
            .map(|value| value.as_ref().map(|value| self.text(value)))
            .collect();
        let values: Vec<Option<&str>> = values.iter().map(|value| value.as_deref()).collect();
        let run = |name: &str, values: &[Option<&str>]| {
            [bind("", name, values), describe_portal(""), execute("", 0)].concat()
        };
        match step.mode {
            '|' => (pieces.iter().flat_map(|sql| query(sql)).collect(), pieces.len()),
            '&' => {
                let each = |sql: &&str| [parse("", sql, &[]), run("", &[])].concat();
                let mut bytes: Vec<u8> = pieces.iter().flat_map(each).collect();
                bytes.extend(sync());
                (bytes, 1)
            }
            'P' => {
                let named = pieces.iter().map(|piece| piece.split_once(' ').unwrap());
                let mut bytes: Vec<u8> =
                    named.flat_map(|(name, sql)| parse(name, sql, &[])).collect();
                bytes.extend(sync());
                (bytes, 1)
            }
            'E' => ([run(&sql, &values), sync()].concat(), 1),
            'X' => ([bind("", &sql, &values), execute("", 0), sync()].concat(), 1),
            'L' => ([parse("", &sql, &[]), bind("", "", &[]), execute("", 1), sync()].concat(), 1),
            'C' => {
                let end = if pieces[2] == "done" { copy_done() } else { copy_fail("enough") };
                ([query(pieces[0]), copy_data(&format!("{}\n", pieces[1])), end].concat(), 1)
            }
            'F' => {
                let oid = self.database.admin().one(&format!("SELECT '{sql}'::regproc::oid"));
                let oid: u32 = oid.parse().unwrap();
                // No arguments, and the result as text.
                (message(b'F', &[&oid.to_be_bytes()[..], &[0; 6]].concat()), 1)
            }
            _ if step.values.is_some() || self.manner == Manner::Extended && !sql.contains(';') => {
                ([parse("", &sql, &[]), run("", &values), sync()].concat(), 1)
            }
            _ => (query(&sql), 1),
        }
    }

    fn hear(&mut self, client: char, readies: usize) -> String {
        let name = self.database.name.clone();
        let heard: Vec<String> =
            (0..readies).map(|_| show(&self.client(client).until(b'Z'))).collect();
        heard.join(" ").replace(&name, "{db}")
    }

    fn ask(&mut self, step: &Step) -> String {
        let readies = self.send(step);
        self.hear(step.client, readies)
    }

    fn seen(&self, step: &Step) -> usize {
        self.database.seen(&self.text(&step.sql))
    }
}

/// What clients were told, by client and text.
type Told = HashMap<(char, String), String>;

pub fn play(script: &Script, manner: Manner) {
    let mut plain = Side::prepare(script, manner);
    let mut through = Side::prepare(script, manner);
    through.forebay = Some(Forebay::start(&through.database, &[]));
    let mut told = Told::new();
    let mut awaited: HashMap<char, usize> = HashMap::new();
    for (number, step) in script.steps.iter().enumerate() {
        let place = format!("{} ({manner:?}), step {}: {}", script.name, number + 1, step.sql);
        match step.mode {
            '>' => {
                plain.send(step);
                awaited.insert(step.client, through.send(step));
            }
            '<' => {
                let readies = awaited.remove(&step.client).unwrap();
                let expected = plain.hear(step.client, readies);
                assert_eq!(through.hear(step.client, readies), expected, "{place}");
            }
            '?' => {
                for side in [&mut plain, &mut through] {
                    wait_until(&place, || side.ask(step).contains("D("));
                }
            }
            _ => {
                let expected = plain.ask(step);
                check(&mut through, step, &expected, &place);
                check_change(&mut told, step, expected, &place);
            }
        }
    }
}

fn check(through: &mut Side<'_>, step: &Step, expected: &str, place: &str) {
    let is_hit = |through: &mut Side<'_>| {
        let before = through.seen(step);
        assert_eq!(through.ask(step), expected, "{place}");
        through.seen(step) == before
    };
    match step.mode {
        '*' => wait_until(&format!("{place} is answered from the cache"), || is_hit(through)),
        '~' => {
            for _ in 0..4 {
                is_hit(through);
            }
        }
        '+' => assert!(is_hit(through), "{place}: asked of PostgreSQL"),
        '-' => {
            for _ in 0..2 {
                let before = through.seen(step);
                let answer = through.ask(step);
                assert!(answer.contains("D("), "{place}: {answer}");
                assert!(through.seen(step) > before, "{place}: answered from the cache");
            }
        }
        _ => assert_eq!(through.ask(step), expected, "{place}"),
    }
}

fn check_change(told: &mut Told, step: &Step, mut now: String, place: &str) {
    // The state of the transaction is no part of the answer.
    now.truncate(now.rfind(" Z(").unwrap_or(now.len()));
    let anyone = ('*', step.sql.clone());
    let before = told.get(&(step.client, step.sql.clone())).or_else(|| told.get(&anyone)).cloned();
    match step.mode {
        '!' => assert_ne!(before.expect("asked before"), now, "{place}: nothing changed"),
        '=' => assert_eq!(before.expect("asked before"), now, "{place}: something changed"),
        _ => {}
    }
    told.insert(anyone, now.clone());
    told.insert((step.client, step.sql.clone()), now);
}
