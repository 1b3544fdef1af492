//! Both machines against each other, against the driver's client half and against noise.

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::*;

const PROCESS: [u8; 32] = [3; 32];
const MD5: &str = "md521f3163f8f86fa10bdefbfbd502a8f06";
/// From `pg_authid` of PostgreSQL 15 after `CREATE ROLE bob PASSWORD 'secret'`.
const SCRAM: &str = "SCRAM-SHA-256$4096:L3MIHmDKoh/HCQyCD4/+/Q==$\
    T/JT7kryjX+FXkLHxy4rZ0yKodeQXSo4xSLB8QTEdZU=:/W7oGIhhZx2ckZBNhXvW38shj15HO3GOTP+nmpLbhn4=";

fn random() -> Random<'static> {
    Random {
        process: &PROCESS,
        nonce: [5; scram::NONCE_BYTES],
        md5_salt: [1, 0, 200, 9],
        iterations: scram::ITERATIONS,
    }
}

/// Lets a server machine with `theirs` log in at a client machine that knows `ours`; both are
/// the user bob.
fn log_in(method: Method, ours: Option<&str>, theirs: &str) -> (Progress, Option<ServerProgress>) {
    let ours = ours.map(Secret::parse);
    let theirs = Secret::parse(theirs);
    let mut server = ServerAuth::begin("bob", Some(&theirs));
    let (mut client, mut progress) = ClientAuth::begin(method, "bob", ours.as_ref(), &random());
    loop {
        let Progress::Continue(request) = progress else {
            return (progress, None);
        };
        match server.handle(&request) {
            ServerProgress::Answer(answer) => progress = client.respond(&answer),
            other @ (ServerProgress::Wait | ServerProgress::Done | ServerProgress::Failed(_)) => {
                return (Progress::Continue(request), Some(other));
            }
        }
        if let Progress::Done { last: Some(last), .. } = &progress {
            assert_eq!(server.handle(last), ServerProgress::Wait);
        }
        if let Progress::Done { .. } = progress {
            assert_eq!(server.handle(&[0; 4]), ServerProgress::Done);
        }
    }
}

fn check(method: Method, ours: Option<&str>, theirs: &str, expected: Result<(), AuthError>) {
    let got = match log_in(method, ours, theirs) {
        (Progress::Done { .. }, None) => Ok(()),
        (Progress::Failed(error), None) => Err(error),
        other => panic!("{method:?} {ours:?} {theirs:?}: {other:?}"),
    };
    assert_eq!(got, expected, "{method:?} {ours:?} {theirs:?}");
}

#[test]
fn every_method_takes_every_secret_it_can_and_no_other() {
    for (method, secret) in [
        (Method::Plain, "secret"),
        (Method::Plain, MD5),
        (Method::Plain, SCRAM),
        (Method::Md5, "secret"),
        (Method::Md5, MD5),
        (Method::Md5, SCRAM),
        (Method::Scram, "secret"),
        (Method::Scram, SCRAM),
    ] {
        let wrong = match (method, secret) {
            (Method::Md5, SCRAM) => Method::Scram,
            (method, _) => method,
        };
        check(method, Some(secret), "secret", Ok(()));
        check(method, Some(secret), "Secret", Err(AuthError::WrongPassword(wrong)));
        check(method, None, "secret", Err(AuthError::UnknownUser(method)));
    }
    check(Method::Scram, Some(MD5), "secret", Err(AuthError::WrongSecretType));
}

#[test]
fn an_md5_hash_logs_in_where_md5_is_asked_for() {
    check(Method::Md5, Some("secret"), MD5, Ok(()));
    check(Method::Md5, Some(MD5), MD5, Ok(()));
}

#[test]
fn an_empty_password_lets_nobody_in() {
    for method in [Method::Plain, Method::Md5, Method::Scram] {
        check(method, Some(""), "secret", Err(AuthError::EmptySecret(method)));
    }
    for secret in ["", "secret", MD5, SCRAM] {
        let secret = Secret::parse(secret);
        let (mut client, _) = ClientAuth::begin(Method::Plain, "bob", Some(&secret), &random());
        assert!(matches!(client.respond(b"\0"), Progress::Failed(_)));
    }
}

#[test]
fn trust_lets_in_who_is_listed() {
    check(Method::Trust, Some(""), "", Ok(()));
    check(Method::Trust, None, "", Err(AuthError::UnknownUser(Method::Trust)));
}

/// What a client sees of a failed log-in: the requests, and the words at the end.
fn seen(method: Method, ours: Option<&Secret>) -> (Vec<Vec<u8>>, (&'static str, &'static str)) {
    let theirs = Secret::parse("guess");
    let mut server = ServerAuth::begin("bob", Some(&theirs));
    let mut requests = Vec::new();
    let (mut client, mut progress) = ClientAuth::begin(method, "bob", ours, &random());
    loop {
        match progress {
            Progress::Continue(request) => {
                let ServerProgress::Answer(answer) = server.handle(&request) else {
                    panic!("the machines agree on the protocol");
                };
                // Nonces and salts differ by nature; their lengths must not.
                let shape = match request.get(3) {
                    Some(11) => vec![u8::try_from(request.len()).expect("a short request")],
                    _ => request,
                };
                requests.push(shape);
                progress = client.respond(&answer);
            }
            Progress::Failed(error) => return (requests, error.message()),
            Progress::Done { .. } => panic!("the guess is wrong"),
        }
    }
}

#[test]
fn an_unknown_user_and_a_wrong_password_look_the_same() {
    let secret = Secret::parse("secret");
    for method in [Method::Plain, Method::Md5, Method::Scram] {
        assert_eq!(seen(method, None), seen(method, Some(&secret)), "{method:?}");
    }
    let hash = Secret::parse(MD5);
    assert_eq!(seen(Method::Scram, Some(&hash)), seen(Method::Scram, None));
}

#[test]
fn an_unknown_user_is_asked_the_same_at_every_try() {
    let challenge = || {
        let mut driver = ScramSha256::new(b"guess", ChannelBinding::unsupported());
        let (mut client, _) = ClientAuth::begin(Method::Scram, "eve", None, &random());
        let message = driver.message().to_vec();
        let Progress::Continue(request) = client.respond(&initial(&message)) else {
            panic!("the first message is right");
        };
        driver.update(&request[4..]).expect("the challenge is well formed");
        let text = String::from_utf8(request[4..].to_vec()).expect("ASCII");
        text.split_once(",s=").expect("a salt").1.to_owned()
    };
    assert_eq!(challenge(), challenge());
}

fn initial(message: &[u8]) -> Vec<u8> {
    let length = i32::try_from(message.len()).expect("a short message");
    [b"SCRAM-SHA-256\0", length.to_be_bytes().as_slice(), message].concat()
}

#[test]
fn a_client_that_binds_channels_but_sees_no_offer_gets_in() {
    let secret = Secret::parse(SCRAM);
    let mut driver = ScramSha256::new(b"secret", ChannelBinding::unrequested());
    let (mut client, first) = ClientAuth::begin(Method::Scram, "bob", Some(&secret), &random());
    assert_eq!(first, Progress::Continue(b"\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec()));
    let Progress::Continue(request) = client.respond(&initial(driver.message())) else {
        panic!("flag y is accepted");
    };
    driver.update(&request[4..]).expect("the challenge is well formed");
    let Progress::Done { last: Some(last), keys: Some(_) } = client.respond(driver.message())
    else {
        panic!("the password is right");
    };
    driver.finish(&last[4..]).expect("we know the verifier");
}

#[test]
fn nothing_follows_an_outcome() {
    let secret = Secret::parse("secret");
    let (mut client, _) = ClientAuth::begin(Method::Plain, "bob", Some(&secret), &random());
    assert!(matches!(client.respond(b"wrong\0"), Progress::Failed(_)));
    assert_eq!(client.respond(b"secret\0"), Progress::Failed(AuthError::Finished));
    let (mut trusted, _) = ClientAuth::begin(Method::Trust, "bob", Some(&secret), &random());
    assert_eq!(trusted.respond(b"secret\0"), Progress::Failed(AuthError::Finished));
}

#[test]
fn a_password_message_ends_with_its_only_zero() {
    let secret = Secret::parse("secret");
    for body in [&b""[..], b"secret", b"secret\0\0", b"secret\0x", b"\0secret\0"] {
        for method in [Method::Plain, Method::Md5] {
            let (mut client, _) = ClientAuth::begin(method, "bob", Some(&secret), &random());
            assert_eq!(client.respond(body), Progress::Failed(AuthError::Malformed), "{body:?}");
        }
    }
    let mut long = vec![b'a'; PASSWORD_BYTES_MAX + 1];
    long.push(0);
    let (mut client, _) = ClientAuth::begin(Method::Plain, "bob", Some(&secret), &random());
    assert_eq!(client.respond(&long), Progress::Failed(AuthError::Malformed));
}

#[test]
fn noise_and_truncations_never_log_a_client_in() {
    let driver = ScramSha256::new(b"secret", ChannelBinding::unsupported());
    let first = initial(driver.message());
    for secret in [None, Some("secret"), Some(MD5), Some(SCRAM)] {
        let secret = secret.map(Secret::parse);
        for method in [Method::Plain, Method::Md5, Method::Scram] {
            for body in noise(&first) {
                let (mut client, _) = ClientAuth::begin(method, "bob", secret.as_ref(), &random());
                let progress = client.respond(&body);
                assert!(!matches!(progress, Progress::Done { .. }), "{method:?} {body:?}");
                let progress = client.respond(&body);
                assert!(!matches!(progress, Progress::Done { .. }), "{method:?} {body:?}");
            }
        }
    }
}

/// Every prefix of `body`, every prefix with one byte changed, and random bytes.
fn noise(body: &[u8]) -> Vec<Vec<u8>> {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let mut rng = StdRng::seed_from_u64(17);
    let mut bodies: Vec<Vec<u8>> = (0..body.len()).map(|end| body[..end].to_vec()).collect();
    for index in 0..body.len() {
        let mut changed = body.to_vec();
        changed[index] = rng.random();
        bodies.push(changed);
    }
    for _ in 0..200 {
        let mut bytes = vec![0; rng.random_range(0..80)];
        rng.fill(&mut bytes[..]);
        bodies.push(bytes);
    }
    bodies.retain(|other| other != body);
    bodies
}

fn server_error(secret: Option<&str>, requests: &[&[u8]]) -> ServerAuthError {
    let secret = secret.map(Secret::parse);
    let mut server = ServerAuth::begin("bob", secret.as_ref());
    let mut last = ServerProgress::Wait;
    for request in requests {
        assert!(!matches!(last, ServerProgress::Failed(_)), "failed early: {last:?}");
        last = server.handle(request);
    }
    let ServerProgress::Failed(error) = last else { panic!("{last:?}") };
    error
}

#[test]
fn a_server_that_asks_for_nothing_is_believed() {
    let mut server = ServerAuth::begin("bob", None);
    assert_eq!(server.handle(&request(code::OK, &[])), ServerProgress::Done);
    let error = ServerAuthError::Unexpected { method: "AuthenticationOk" };
    assert_eq!(server.handle(&request(code::OK, &[])), ServerProgress::Failed(error));
}

#[test]
fn methods_we_cannot_answer_are_named() {
    for (code, method) in [
        (2, "Kerberos V5 authentication"),
        (7, "GSSAPI authentication"),
        (9, "SSPI authentication"),
        (77, "an unknown authentication method"),
        (-1, "an unknown authentication method"),
    ] {
        let error = server_error(Some("secret"), &[&request(code, &[])]);
        assert_eq!(error, ServerAuthError::Unsupported { method, code });
    }
    let sasl = request(code::SASL, b"SCRAM-SHA-256-PLUS\0OAUTHBEARER\0\0");
    let offered = "SCRAM-SHA-256-PLUS OAUTHBEARER".to_owned();
    let error = server_error(Some("secret"), &[&sasl]);
    assert_eq!(error, ServerAuthError::NoMechanism { offered });
}

#[test]
fn a_secret_that_cannot_answer_says_so() {
    let cleartext = request(code::CLEARTEXT_PASSWORD, &[]);
    let md5 = request(code::MD5_PASSWORD, &[1, 2, 3, 4]);
    let sasl = request(code::SASL, b"SCRAM-SHA-256\0\0");
    for body in [&cleartext, &md5, &sasl] {
        for secret in [None, Some("")] {
            let error = server_error(secret, &[body]);
            assert!(matches!(error, ServerAuthError::NoSecret { .. }), "{error}");
        }
    }
    for (secret, body) in [(MD5, &cleartext), (MD5, &sasl), (SCRAM, &cleartext), (SCRAM, &md5)] {
        let error = server_error(Some(secret), &[body]);
        assert!(matches!(error, ServerAuthError::WrongSecretType { .. }), "{error}");
    }
}

#[test]
fn a_server_may_not_skip_the_proof_that_it_knows_the_password() {
    let secret = Secret::parse(SCRAM);
    let (mut client, first) = ClientAuth::begin(Method::Scram, "bob", Some(&secret), &random());
    let mut server = ServerAuth::begin("bob", Some(&Secret::parse("secret")));
    let Progress::Continue(first) = first else { panic!("SCRAM asks") };
    let ServerProgress::Answer(answer) = server.handle(&first) else { panic!("it answers") };
    let Progress::Continue(challenge) = client.respond(&answer) else { panic!("it challenges") };
    let ServerProgress::Answer(_) = server.handle(&challenge) else { panic!("it proves") };
    let error = ServerAuthError::Unexpected { method: "AuthenticationOk" };
    assert_eq!(server.handle(&request(code::OK, &[])), ServerProgress::Failed(error));
}

#[test]
fn noise_and_truncations_never_log_us_in() {
    let requests = [
        request(code::MD5_PASSWORD, &[1, 2, 3, 4]),
        request(code::SASL, b"SCRAM-SHA-256\0\0"),
        request(code::SASL_CONTINUE, b"r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1"),
        request(code::SASL_CONTINUE, b"r=,s=,i=99999999999999999999"),
        request(code::SASL_FINAL, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
        request(code::SASL_FINAL, b"e=other-error"),
    ];
    let sasl = request(code::SASL, b"SCRAM-SHA-256\0\0");
    for start in [None, Some(&sasl)] {
        for body in requests.iter().flat_map(|body| noise(body)) {
            let mut server = ServerAuth::begin("bob", Some(&Secret::parse("secret")));
            if let Some(start) = start {
                assert!(matches!(server.handle(start), ServerProgress::Answer(_)));
            }
            let done = server.handle(&body) == ServerProgress::Done;
            assert!(!done || body == [0; 4], "{body:?}");
        }
    }
}

/// The keys that bob's client gives away when it logs in against `ours`.
fn keys_from_login(ours: &str, password: &str) -> ScramKeys {
    match log_in(Method::Scram, Some(ours), password) {
        (Progress::Done { keys: Some(keys), .. }, None) => keys,
        other => panic!("{other:?}"),
    }
}

/// Logs in with keys at a server that stores `theirs`.
fn pass_through(keys: ScramKeys, theirs: &str) -> Result<(), ServerAuthError> {
    let (ours, theirs) = (Secret::parse(SCRAM), Secret::parse(theirs));
    let mut us = ServerAuth::begin("bob", Some(&ours)).with_keys(keys, [9; scram::NONCE_BYTES]);
    let (mut server, mut progress) =
        ClientAuth::begin(Method::Scram, "bob", Some(&theirs), &random());
    loop {
        let body = match progress {
            Progress::Continue(body) => body,
            Progress::Done { last, .. } => {
                assert_eq!(us.handle(&last.expect("a signature")), ServerProgress::Wait);
                assert_eq!(us.handle(&[0; 4]), ServerProgress::Done);
                return Ok(());
            }
            Progress::Failed(error) => panic!("{error}"),
        };
        match us.handle(&body) {
            ServerProgress::Answer(answer) => progress = server.respond(&answer),
            ServerProgress::Failed(error) => return Err(error),
            other @ (ServerProgress::Wait | ServerProgress::Done) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_clients_proof_logs_in_where_the_verifier_is_the_same() {
    assert_eq!(pass_through(keys_from_login(SCRAM, "secret"), SCRAM), Ok(()));
}

#[test]
fn a_clients_proof_is_not_sent_where_the_verifier_differs() {
    let other = ServerAuthError::Scram(ScramClientError::OtherVerifier);
    assert_eq!(pass_through(keys_from_login(SCRAM, "secret"), "secret"), Err(other.clone()));
    assert_eq!(pass_through(keys_from_login("secret", "secret"), SCRAM), Err(other));
}

#[test]
fn a_server_that_knows_only_the_salt_is_not_believed() {
    let keys = keys_from_login(SCRAM, "secret");
    let start = |keys: ScramKeys| {
        let mut us = ServerAuth::begin("bob", None).with_keys(keys, [9; scram::NONCE_BYTES]);
        let first = us.handle(&request(code::SASL, b"SCRAM-SHA-256\0\0"));
        assert!(matches!(first, ServerProgress::Answer(_)));
        us
    };
    // "CQkJ…" is our nonce of nines.
    let nonce = "CQkJ".repeat(6);
    let challenge = |nonce: &str, salt: &str, more: &str| {
        let text = format!("r={nonce},s={salt},i=4096{more}");
        request(code::SASL_CONTINUE, text.as_bytes())
    };
    let salt = "L3MIHmDKoh/HCQyCD4/+/Q==";
    let right = challenge(&format!("{nonce}x"), salt, "");
    for (body, expected) in [
        (challenge(&nonce, salt, ""), ScramClientError::Nonce),
        (challenge("x", salt, ""), ScramClientError::Nonce),
        (challenge(&format!("{nonce}x"), "AAAA", ""), ScramClientError::OtherVerifier),
        (challenge(&format!("{nonce}x"), salt, "0"), ScramClientError::OtherVerifier),
        (request(code::SASL_CONTINUE, b"\xff"), ScramClientError::Malformed { expected: "text" }),
        (request(code::SASL_CONTINUE, b""), ScramClientError::Malformed { expected: "nonce" }),
    ] {
        let failed = ServerProgress::Failed(ServerAuthError::Scram(expected));
        assert_eq!(start(keys.clone()).handle(&body), failed, "{body:?}");
    }
    for body in noise(&right) {
        let progress = start(keys.clone()).handle(&body);
        // A changed byte of the nonce's server part is still a challenge.
        let challenged = body.starts_with(&right[..4 + 2 + nonce.len()]);
        assert!(challenged || matches!(progress, ServerProgress::Failed(_)), "{body:?}");
    }
    for last in [&b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="[..], b"v=", b"", b"e=no"] {
        let mut us = start(keys.clone());
        assert!(matches!(us.handle(&right), ServerProgress::Answer(_)));
        let end = us.handle(&request(code::SASL_FINAL, last));
        assert!(matches!(end, ServerProgress::Failed(ServerAuthError::Scram(_))), "{end:?}");
    }
}

#[test]
fn debug_output_keeps_the_keys() {
    let shown = format!("{:?}", keys_from_login(SCRAM, "secret"));
    assert_eq!(shown, "ScramKeys(…)");
}
