//! Answers of megabytes are PostgreSQL's byte for byte, however its bytes come in.

use std::io::Write as _;
use std::time::Duration;

use crate::support::forebay::Forebay;
use crate::support::postgres::Database;
use crate::support::raw::{Message, RawClient, bind, describe_portal, execute, parse, query, sync};

/// Rows of every length up to two reads' worth, and among them many in one read.
const ROWS: &str = "SELECT i, repeat(chr(97 + i % 26), CASE WHEN i % 500 = 0 THEN i * 100 \
                    ELSE i * i % 1000 END) AS text FROM generate_series(1, 3000) AS i";

fn conversation() -> Vec<Vec<u8>> {
    let extended = [parse("", ROWS, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)];
    vec![
        query(ROWS),
        // Twice: a cache may answer the second.
        query(ROWS),
        query(&format!("{ROWS}; SELECT 1; {ROWS}; SELECT 1/0")),
        query(&format!("COPY ({ROWS}) TO STDOUT")),
        [extended.concat(), execute("", 0), sync()].concat(),
    ]
}

/// How many messages, and what they hold.
fn answers(mut client: RawClient) -> Vec<(usize, Vec<u8>)> {
    let mut answers = Vec::new();
    for message in conversation() {
        client.send(&message);
        let messages = client.until(b'Z');
        let body = |message: &Message| [&[message.tag][..], &message.body].concat();
        answers.push((messages.len(), messages.iter().flat_map(body).collect()));
    }
    answers
}

#[test]
fn a_long_answer_arrives_as_postgresql_sent_it() {
    let database = Database::with("");
    let expected = answers(database.direct());
    for options in [&["--no-cache"][..], &[]] {
        let forebay = Forebay::start(&database, options);
        for (index, (sent, came)) in expected.iter().zip(answers(forebay.client())).enumerate() {
            assert_eq!(sent.0, came.0, "messages of answer {index}, {options:?}");
            assert!(sent.1 == came.1, "answer {index}, {options:?}");
        }
    }
}

const MANY: &str = "SELECT i, repeat('x', i % 90) FROM t ORDER BY i";

/// In one piece and without reading meanwhile: more than the sockets in between take.
fn impatient() -> (Vec<u8>, usize) {
    let extended = [parse("", MANY, &[]), bind("", "", &[]), describe_portal(""), execute("", 0)];
    let once = [query(MANY), query("SELECT 1"), extended.concat(), sync(), query("SELECT 2")];
    (once.concat().repeat(20), 20 * 4)
}

fn heard(mut client: RawClient) -> Vec<u8> {
    let (messages, answers) = impatient();
    client.send(&messages);
    let mut heard = Vec::new();
    for _ in 0..answers {
        for message in client.until(b'Z') {
            heard.push(message.tag);
            heard.extend_from_slice(&message.body);
        }
    }
    heard
}

/// How much of endless questions is taken from a client that reads no answer.
fn taken(client: RawClient, question: &[u8]) -> usize {
    let piece = question.repeat(64 * 1024 / question.len());
    let mut stream = client.into_stream();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut taken = 0;
    while taken < 200 << 20 && stream.write_all(&piece).is_ok() {
        taken += piece.len();
    }
    taken
}

#[test]
fn who_reads_no_large_hit_is_read_no_further() {
    let sql = "CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) AS i";
    let database = Database::with(sql);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, MANY);
    // What the sockets in between take is a few MB.
    let taken = taken(client, &query(MANY));
    assert!(taken < 50 << 20, "{taken} bytes");
}

#[test]
fn many_rows_of_hits_arrive_whole_and_in_their_place() {
    let sql = "CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) AS i";
    let database = Database::with(sql);
    let forebay = Forebay::start(&database, &[]);
    let mut client = forebay.client();
    database.until_hit(&mut client, MANY);
    assert!(heard(client) == heard(database.direct()));
}
