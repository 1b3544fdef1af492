//! What is too much, too long or no protocol at all ends one connection and nothing else.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{
    Login, RawClient, SSL_REQUEST, bind, close_portal, flush, message, packet, parse, query, sync,
};

fn start(toml: &str) -> (Database<'static>, Forebay) {
    let database = Database::with("");
    let forebay = Forebay::with_config(&database, toml, &[]);
    (database, forebay)
}

/// A stranger that says this hears no more than a FATAL with this SQLSTATE.
fn check_refused(forebay: &Forebay, bytes: &[u8], sqlstate: &str) {
    let mut stranger = RawClient::connect(forebay.port);
    stranger.send(bytes);
    let error = stranger.message();
    assert_eq!(error.field(b'S'), "FATAL", "{error:?}");
    assert_eq!(error.field(b'C'), sqlstate, "{}", error.field(b'M'));
    assert_eq!(stranger.until_closed(), "");
}

#[test]
fn one_client_too_many_is_refused_and_welcome_again_when_another_leaves() {
    let (database, forebay) = start("[listen]\nmax_client_conn = 2\n");
    let login = Login::new(USER, PASSWORD, &database.name);
    let one = forebay.client();
    let mut two = forebay.client();
    let refused = forebay.log_in(&login).err().unwrap();
    assert_eq!(refused.sqlstate, "53300");
    assert_eq!(two.one("SELECT 1"), "1");
    one.close();
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn startup_packets_that_are_none_are_refused() {
    let (_database, forebay) = start("");
    check_refused(&forebay, &[0, 0, 0, 3], "08P01");
    check_refused(&forebay, &[0, 1, 0, 0], "08P01");
    check_refused(&forebay, &[255; 16], "08P01");
    check_refused(&forebay, b"GET / HTTP/1.1\r\n\r\n", "08P01");
    check_refused(&forebay, &packet(&[0, 2, 0, 0]), "0A000");
    check_refused(&forebay, &packet(&[0, 3, 0, 0, 0]), "28000");
    check_refused(&forebay, &packet(b"\0\x03\0\0user"), "08P01");
    check_refused(&forebay, &packet(b"\0\x03\0\0user\0\xff\xfe\0\0"), "08P01");
    let long = [b"\0\x03\0\0user\0".to_vec(), vec![b'x'; 20_000], vec![0, 0]].concat();
    check_refused(&forebay, &packet(&long), "08P01");
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn something_else_than_a_password_is_refused() {
    let (database, forebay) = start("");
    let login = Login::new(USER, PASSWORD, &database.name);
    for garbage in [
        query("SELECT 1"),
        vec![b'p', 255, 255, 255, 255],
        message(b'p', b"nonsense"),
        vec![b'p', 0, 0, 0, 1],
    ] {
        let mut stranger = RawClient::connect(forebay.port);
        stranger.send(&login.startup());
        stranger.expect("R");
        stranger.send(&garbage);
        let error = stranger.message();
        assert_eq!(error.field(b'S'), "FATAL", "{error:?}");
        assert_ne!(error.field(b'C'), "");
        assert_eq!(stranger.until_closed(), "");
    }
}

#[test]
fn garbage_after_the_login_is_refused_with_a_sqlstate() {
    let (_database, forebay) = start("[listen]\nmax_packet_size = 65536\n");
    for garbage in [
        message(b'!', b""),
        message(b'Q', b"no terminator"),
        message(b'P', b"x"),
        message(b'B', b"\0\0\xff\xff"),
        message(b'D', b"?"),
        message(b'E', b""),
        message(b'C', b""),
        message(b'F', b""),
        vec![b'Q', 0, 0, 0, 3],
        vec![b'Q', 255, 255, 255, 255],
        vec![b'Q', 0, 1, 0, 5],
    ] {
        let mut client = forebay.client();
        client.send(&[garbage.clone(), message(b'S', b"")].concat());
        let error = client.message();
        assert_eq!(error.tag, b'E', "{garbage:?}: {error:?}");
        assert_eq!(error.field(b'C'), "08P01", "{garbage:?}: {}", error.field(b'M'));
        assert_eq!(forebay.client().one("SELECT 1"), "1");
    }
}

#[test]
fn a_message_up_to_the_limit_is_taken() {
    let (_database, forebay) = start("[listen]\nmax_packet_size = 65536\n");
    let mut client = forebay.client();
    let text = "x".repeat(60_000);
    assert_eq!(client.one(&format!("SELECT length('{text}')")), "60000");
    let text = "x".repeat(70_000);
    // The socket may be closed before all of it is sent.
    let _sent = client.try_send(&query(&format!("SELECT length('{text}')")));
    assert_eq!(client.message().field(b'C'), "08P01");
}

/// The client is told why, and no other client suffers.
fn check_told_why(forebay: &Forebay, mut client: RawClient, sqlstate: &str, message: &str) {
    let errors = client.until(b'E');
    let error = errors.last().unwrap();
    assert_eq!((error.field(b'S'), error.field(b'C')), ("FATAL".into(), sqlstate.to_owned()));
    assert_eq!(error.field(b'M'), message);
    assert_eq!(client.until_closed(), "");
    assert_eq!(forebay.client().one("SELECT 1"), "1");
}

#[test]
fn a_client_has_a_thousand_portals_and_no_more() {
    let (_database, forebay) = start("");
    let named = |count: std::ops::Range<usize>| -> Vec<u8> {
        count.flat_map(|at| bind(&format!("p{at}"), "s", &[])).collect()
    };
    // One after the other, and many at once: what is not sent yet counts too.
    let mut client = forebay.client();
    client.run("BEGIN");
    client.ask(&[parse("s", "SELECT 1", &[]), sync()]);
    client.ask(&[named(0..1000), sync()]);
    // A portal that is closed, or bound again after, makes room; the unnamed one is free.
    client.ask(&[close_portal("p7"), sync()]);
    assert_eq!(client.ask(&[named(7..8), bind("", "s", &[]), sync()]), "2 2 Z(T)");
    client.run("COMMIT");
    client.run("BEGIN");
    client.ask(&[named(0..600), sync()]);
    client.send(&[named(600..1001), flush()].concat());
    check_told_why(&forebay, client, "53400", "too many portals");
    let mut client = forebay.client();
    client.ask(&[parse("s", "SELECT 1", &[]), sync()]);
    client.send(&[named(0..1001), sync()].concat());
    check_told_why(&forebay, client, "53400", "too many portals");
}

#[test]
fn a_client_has_as_many_statements_as_the_setting_says() {
    let (_database, forebay) = start("[pool]\nmax_client_prepared_statements = 10\n");
    let named = |count: std::ops::Range<usize>| -> Vec<u8> {
        count.flat_map(|at| parse(&format!("s{at}"), &format!("SELECT {at}"), &[])).collect()
    };
    let mut client = forebay.client();
    client.ask(&[named(0..10), sync()]);
    assert_eq!(client.ask(&[parse("", "SELECT 1", &[]), sync()]), "1 Z(I)");
    client.send(&[named(10..11), sync()].concat());
    check_told_why(&forebay, client, "53400", "too many prepared statements");
    let mut client = forebay.client();
    client.send(&[named(0..11), sync()].concat());
    check_told_why(&forebay, client, "53400", "too many prepared statements");
}

#[test]
fn settings_without_number_tie_the_client_to_its_server() {
    let (_database, forebay) = start("");
    let mut client = forebay.client();
    for at in 0..400 {
        client.run(&format!("SET app.v{at} = '{at}'"));
    }
    let pins = forebay.console().query("SHOW PINS");
    assert!(pins.contains(",session_state,"), "{pins}");
    assert_eq!(client.one("SELECT current_setting('app.v399')"), "399");
    assert_eq!(client.one("SELECT current_setting('app.v0')"), "0");
    client.run("DISCARD ALL");
    assert!(!forebay.console().query("SHOW PINS").contains(",session_state,"));
}

#[test]
fn ten_thousand_connections_of_noise_leave_the_process_healthy() {
    let (_database, forebay) = start("");
    let mut client = forebay.client();
    let before = forebay.daemon.resident_kb();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..10_000_u32 {
        let mut stranger = RawClient::connect(forebay.port);
        let count = usize::try_from(random() % 64).unwrap();
        let noise: Vec<u8> = (0..count).map(|_| random().to_le_bytes()[0]).collect();
        let bytes = match round % 4 {
            0 => noise,
            1 => packet(&noise),
            2 => [&SSL_REQUEST[..], &packet(&noise)].concat(),
            _ => packet(&[b"\0\x03\0\0", noise.as_slice()].concat()),
        };
        // It may have been refused already.
        let _sent = stranger.try_send(&bytes);
    }
    assert_eq!(client.one("SELECT 1"), "1");
    assert_eq!(forebay.client().one("SELECT 1"), "1");
    assert!(!forebay.log().contains("panicked"));
    let after = forebay.daemon.resident_kb();
    assert!(after < before + 30_000, "{before} kB before, {after} kB after");
}
