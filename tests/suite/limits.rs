//! What is too much, too long or no protocol at all ends one connection and nothing else.

use crate::support::forebay::Forebay;
use crate::support::postgres::{Database, PASSWORD, USER};
use crate::support::raw::{Login, RawClient, SSL_REQUEST, message, packet, query};

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
