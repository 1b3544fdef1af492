//! Raw scripts between a fake client and a fake server: cut into packets at every byte, an error
//! at every message, either side gone at every message. Whatever happens, the next client gets a
//! server that owes nobody anything.

use crate::support::fake::{END, FakePostgres, Fault, MARK};
use crate::support::forebay::Forebay;
use crate::support::postgres::{PASSWORD, USER};
use crate::support::raw::{
    Login, RawClient, bind, copy_data, copy_done, copy_fail, describe_portal, describe_statement,
    execute, flush, parse, query, show, sync,
};
use crate::support::wait_until;

fn say(sql: &str) -> Vec<u8> {
    query(&format!("{sql} {MARK}"))
}

fn prepare(name: &str, sql: &str) -> Vec<u8> {
    parse(name, &format!("{sql} {MARK}"), &[])
}

/// A statement by the extended protocol, without its Sync.
fn extended(sql: &str) -> Vec<Vec<u8>> {
    vec![prepare("", sql), bind("", "", &[]), describe_portal(""), execute("", 0)]
}

/// Conversations, message by message. Each run has a statement of its own to prepare, since the
/// second time a server need not be asked.
fn scripts(run: usize) -> Vec<Vec<Vec<u8>>> {
    let (name, sql) = (format!("s{run:05}"), format!("SELECT {run:05}"));
    let name = name.as_str();
    let with = |parts: &[&[Vec<u8>]]| parts.concat();
    let (one, two) = (extended("SELECT 1"), extended("SELECT 2"));
    vec![
        vec![say("SELECT 1"), say("SELECT 2")],
        vec![say("BEGIN"), say("SELECT 1"), say("COMMIT")],
        vec![say("BEGIN"), say("WRONG"), say("ROLLBACK"), say("SELECT 1")],
        with(&[&one, &[sync()]]),
        with(&[&one, &[sync()], &two, &[sync()]]),
        with(&[&one, &two, &[sync()], &[say("SELECT 3")]]),
        with(&[&one, &[flush()], &two, &[flush(), sync()]]),
        with(&[&extended("WRONG"), &two, &[sync(), say("SELECT 1")]]),
        with(&[&[say("BEGIN")], &one, &[sync()], &extended("WRONG"), &[sync(), say("COMMIT")]]),
        vec![
            prepare(name, &sql),
            describe_statement(name),
            bind("", name, &[]),
            execute("", 0),
            sync(),
        ],
        vec![say("COPY in"), copy_data("1\n"), copy_data("2\n"), copy_done(), say("SELECT 1")],
        vec![say("COPY in"), copy_data("1\n"), copy_fail("no"), say("SELECT 1")],
        with(&[&extended("COPY in"), &[sync(), copy_data("1\n"), copy_done(), sync()]]),
        with(&[&extended("COPY in"), &[flush(), copy_data("1\n"), copy_fail("no"), sync()]]),
        vec![say("COPY out"), say("SELECT 1")],
    ]
}

struct Stage {
    postgres: FakePostgres,
    forebay: Forebay,
    console: RawClient,
    asked: u32,
}

impl Stage {
    /// One server for all, and no answer but its.
    fn set(mode: &str) -> Self {
        let postgres = FakePostgres::start();
        let url = postgres.server.url();
        let toml = format!("[auth]\nauth_type = \"trust\"\n[pool]\npool_mode = \"{mode}\"\n");
        let forebay = Forebay::launch(&url, "app", &toml, &["--pool-size", "1", "--cache", "off"]);
        let console = forebay.console();
        Self { postgres, forebay, console, asked: 0 }
    }

    fn client(&self) -> RawClient {
        self.forebay.log_in(&Login::new(USER, PASSWORD, "app")).unwrap()
    }

    /// Straight to the server, which is right by definition.
    fn direct(&self, script: &[Vec<u8>], fault: Option<Fault>) -> String {
        self.postgres.arm(fault);
        let login = Login::new(USER, PASSWORD, "app");
        let mut client = RawClient::log_in(self.postgres.server.port, &login).unwrap();
        client.send(&[script.concat(), query(END)].concat());
        let messages = replies(&mut client);
        show(&messages)
    }

    /// The next client finds a server that is as new, and the console sees it idle.
    fn check(&mut self, what: &str) {
        self.postgres.arm(None);
        let mut client = self.client();
        for _ in 0..2 {
            self.asked += 1;
            let (sql, value) = (format!("SELECT fresh {}", self.asked), self.asked.to_string());
            assert_eq!(client.query(&sql), format!("T(v) D({value}) C(SELECT 1) Z(I)"), "{what}");
        }
        client.close();
        let console = &mut self.console;
        wait_until(&format!("the server is idle again: {what}"), || {
            console.column("SHOW POOLS", "sv_idle") == "1"
                && console.column("SHOW POOLS", "sv_active") == "0"
        });
        assert_eq!(self.postgres.violations(), [""; 0], "{what}");
    }
}

/// Up to the answer to the query that ends every script.
fn replies(client: &mut RawClient) -> Vec<crate::support::raw::Message> {
    let mut messages = Vec::new();
    while !show(&messages).contains("D(end)") {
        messages.extend(client.until(b'Z'));
    }
    messages
}

#[test]
fn packets_may_be_cut_at_every_byte() {
    let mut stage = Stage::set("transaction");
    for (number, script) in scripts(0).into_iter().enumerate() {
        let expected = stage.direct(&script, None);
        let mut client = stage.client();
        for at in 1..=script.concat().len() {
            let script = &scripts(at)[number];
            let expected = expected.replace("00000", &format!("{at:05}"));
            let bytes = [script.concat(), query(END)].concat();
            stage.postgres.arm(None);
            client.send(&bytes[..at]);
            // What is sent behind this cannot be in one read with what was sent before.
            stage.console.run("SHOW VERSION");
            client.send(&bytes[at..]);
            let heard = replies(&mut client);
            assert_eq!(show(&heard), expected, "script {number}, cut at {at}");
        }
        client.close();
        stage.check("after cuts");
    }
}

#[test]
fn an_error_at_any_message_is_the_clients_and_nobody_elses() {
    let mut stage = Stage::set("transaction");
    for (number, script) in scripts(0).iter().enumerate() {
        for at in 0..script.len() {
            let what = format!("script {number}, error at {at}");
            let script = &scripts(at)[number];
            let expected = stage.direct(script, Some(Fault::Error(at)));
            stage.postgres.arm(Some(Fault::Error(at)));
            let mut client = stage.client();
            client.send(&[script.concat(), query(END)].concat());
            assert_eq!(show(&replies(&mut client)), expected, "{what}");
            client.close();
            stage.check(&what);
        }
    }
}

#[test]
fn a_server_gone_at_any_message_takes_nobody_along() {
    for mode in ["transaction", "session"] {
        let mut stage = Stage::set(mode);
        for (number, script) in scripts(0).iter().enumerate() {
            for at in 0..script.len() {
                for fault in [Fault::Cut(at), Fault::CutInside(at, 3), Fault::CutInside(at, 7)] {
                    let what = format!("{mode}, script {number}, {fault:?}");
                    let unharmed = stage.direct(script, None);
                    let mut client = stage.client();
                    stage.postgres.arm(Some(fault));
                    client.send(&script.concat());
                    let told = client.until_closed();
                    // Of a row that has begun nothing is told but its beginning.
                    let before = told.strip_suffix("E(08006)");
                    let cut_inside = matches!(fault, Fault::CutInside(..));
                    assert!(before.is_some() || cut_inside, "{what}: {told}");
                    assert!(unharmed.starts_with(before.unwrap_or(&told)), "{what}: {told}");
                    stage.check(&what);
                }
            }
        }
    }
}

#[test]
fn a_client_gone_at_any_message_leaves_no_reply_behind() {
    for mode in ["transaction", "session"] {
        let mut stage = Stage::set(mode);
        for (number, script) in scripts(0).iter().enumerate() {
            for at in 0..=script.len() {
                for part in [0, 3] {
                    let what = format!("{mode}, script {number}, gone at {at} and {part} bytes");
                    stage.postgres.arm(None);
                    let mut client = stage.client();
                    let mut bytes = script[..at].concat();
                    bytes.extend(script.get(at).into_iter().flatten().take(part));
                    client.send(&bytes);
                    drop(client);
                    stage.check(&what);
                }
            }
        }
    }
}
