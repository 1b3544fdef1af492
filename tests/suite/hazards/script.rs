//! How a play is written:
//!
//! ```text
//! # b13_tables_that_trade_names        a play and its name
//! -- a remark
//! setup CREATE TABLE t (v int)         as the owner, before Forebay starts
//! superuser CREATE ROLE r_{db}         as the superuser; {db} is the database's name
//! open                                 it fails today, and its row says so
//! simple                               not by the extended protocol
//! login a search_path=b                startup parameters of client a
//! a* SELECT v FROM t                   until it is answered from the cache
//! a~ SELECT v FROM t                   four times, kept or not
//! b: UPDATE t SET v = 2                once; @ is the superuser, behind Forebay's back
//! a! SELECT v FROM t                   once, and the answer is another than the last time
//! a= SELECT v FROM t                   once, and the answer is the same as the last time, which
//!                                      is another client's where this one never asked
//! a+ SELECT v FROM t                   once, and it is answered from the cache
//! a- SELECT random() FROM t            twice, and it is not answered from the cache, whatever
//!                                      it answers
//! a: SELECT $1::int @@ 7, NULL         by the extended protocol, with values
//! a| UPDATE …  ;; SELECT …             in one piece, a Query each
//! a& UPDATE …  ;; SELECT …             in one piece, a Parse, Bind and Execute each, one Sync
//! aP s SELECT $1::int ;; t SELECT 1     Parse under a name, one Sync
//! aE s @@ 7                            Bind, Describe, Execute of that name
//! aX s @@ 7                            the same without Describe
//! aL INSERT … RETURNING v              Parse, Bind and Execute of one row
//! aC COPY … ;; 7 ;; done               COPY of this one row, or `fail` at its end
//! aF wr                                FunctionCall
//! a> SELECT v FROM t                   sent; its answer is not waited for
//! b? SELECT 1 …                        repeated until it is no empty answer; @ for the superuser
//! a<                                   what was sent is answered
//! ```
//!
//! A line that begins with blanks continues the one above.

use super::play::Manner;

pub struct Script {
    pub name: String,
    pub setup: Vec<String>,
    pub superuser: Vec<String>,
    pub logins: Vec<(char, Vec<(String, String)>)>,
    pub steps: Vec<Step>,
    /// A known fault, which it must show.
    pub open: bool,
    simple: bool,
}

pub struct Step {
    pub client: char,
    pub mode: char,
    pub sql: String,
    pub values: Option<Vec<Option<String>>>,
}

impl Script {
    pub fn read(text: &str) -> Vec<Self> {
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with("--") && !line.trim().is_empty()) {
            match lines.last_mut() {
                // One line, for so PostgreSQL logs it.
                Some(last) if line.starts_with(' ') => *last = format!("{last} {}", line.trim()),
                _ => lines.push(line.to_owned()),
            }
        }
        let mut scripts: Vec<Self> = Vec::new();
        for line in lines {
            if let Some(name) = line.strip_prefix("# ") {
                scripts.push(Self::named(name));
            } else {
                scripts.last_mut().expect("a name first").add(&line);
            }
        }
        scripts
    }

    fn named(name: &str) -> Self {
        let (setup, superuser, logins, steps) = Default::default();
        Self { name: name.to_owned(), setup, superuser, logins, steps, open: false, simple: false }
    }

    fn add(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "setup" => self.setup.push(rest.to_owned()),
            "superuser" => self.superuser.push(rest.to_owned()),
            "simple" => self.simple = true,
            "open" => self.open = true,
            "login" => self.logins.push(login(rest)),
            _ => self.steps.push(step(word, rest)),
        }
    }

    pub fn manners(&self) -> impl Iterator<Item = Manner> + use<> {
        let extended = (!self.simple).then_some(Manner::Extended);
        std::iter::once(Manner::Simple).chain(extended)
    }
}

fn login(text: &str) -> (char, Vec<(String, String)>) {
    let mut client = text.chars();
    let name = client.next().expect("a client");
    let (parameter, value) = client.as_str().trim().split_once('=').expect("name=value");
    (name, vec![(parameter.to_owned(), value.to_owned())])
}

fn step(word: &str, rest: &str) -> Step {
    let mut letters = word.chars();
    let (Some(client), Some(mode), None) = (letters.next(), letters.next(), letters.next()) else {
        panic!("not understood: {word} {rest}");
    };
    let (sql, values) = match rest.split_once(" @@") {
        Some((sql, values)) => (sql, Some(read_values(values))),
        None => (rest, None),
    };
    Step { client, mode, sql: sql.trim().to_owned(), values }
}

fn read_values(text: &str) -> Vec<Option<String>> {
    let values = text.split(',').filter_map(|value| value.strip_prefix(' '));
    values.map(|value| Some(value.to_owned()).filter(|value| value != "NULL")).collect()
}
