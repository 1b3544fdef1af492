//! Every kind of stream through the same calls; TLS in-process, both ends ours, with the
//! certificates of `tests/suite/support/tls`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// Far beyond what any step takes; only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(30);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("no step hangs")
}

fn pem(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/suite/support/tls").join(name)
}

fn server_config(name: &str, ca: Option<&str>) -> TlsServerConfig {
    let ca = ca.map(pem);
    let (cert, key) = (pem(&format!("{name}.pem")), pem(&format!("{name}.key")));
    TlsServerConfig::load(&cert, &key, required(ca.as_deref()), &Offer::default())
        .expect("the files are in order")
}

fn client_config(mode: SslMode, ca: Option<&str>) -> TlsClientConfig {
    let ca = ca.map(pem);
    TlsClientConfig::load(mode, ca.as_deref(), None, &Offer::default())
        .expect("the files are in order")
}

fn required(ca: Option<&std::path::Path>) -> ClientCertificates<'_> {
    ca.map_or(ClientCertificates::NotAsked, ClientCertificates::Required)
}

async fn listen() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, Address::new("127.0.0.1", port))
}

async fn accept(listener: &TcpListener) -> Stream {
    Stream::Tcp(listener.accept().await.expect("a connection").0)
}

/// Reads until `count` bytes are there.
async fn expect_bytes(stream: &mut Stream, count: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(count);
    while bytes.len() < count {
        assert_ne!(stream.read(&mut bytes).await.expect("a read"), 0, "closed early");
    }
    bytes
}

async fn tcp_pair() -> (Stream, Stream) {
    let (listener, address) = listen().await;
    let config = TlsClientConfig::disabled();
    let (client, server) = tokio::join!(connect(&address, 0, &config), accept(&listener));
    (client.expect("connected"), server)
}

async fn unix_pair() -> (Stream, Stream) {
    let directory = std::env::temp_dir().join(format!("forebay-net-{}", rand::random::<u64>()));
    std::fs::create_dir(&directory).expect("a new directory");
    let address = Address::new(directory.to_str().expect("UTF-8"), 5432);
    let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).expect("bound");
    let config = client_config(SslMode::VerifyFull, Some("ca.pem"));
    let (client, server) = tokio::join!(connect(&address, 0, &config), listener.accept());
    std::fs::remove_dir_all(&directory).expect("ours");
    (client.expect("connected"), Stream::Unix(server.expect("a connection").0))
}

async fn tls_pair() -> (Stream, Stream) {
    let config = client_config(SslMode::VerifyFull, Some("ca.pem"));
    let (client, server) = tls_meeting("server", None, "127.0.0.1", &config).await;
    (client.expect("connected"), server.expect("accepted"))
}

/// A PostgreSQL-like server with the certificate `name` meets a client that knows it as `host`.
async fn tls_meeting(
    name: &str,
    client_ca: Option<&str>,
    host: &str,
    config: &TlsClientConfig,
) -> (Result<Stream, ConnectError>, Result<Stream, AcceptError>) {
    let (listener, address) = listen().await;
    let Address::Tcp { port, .. } = address else { panic!("TCP") };
    let server_config = server_config(name, client_ca);
    let server = async {
        let mut stream = accept(&listener).await;
        let request = expect_bytes(&mut stream, 8).await;
        assert_eq!(request.as_ref(), [0, 0, 0, 8, 4, 210, 22, 47]);
        accept_tls(stream, &server_config, &[]).await
    };
    let address = Address::new(host, port);
    within(async { tokio::join!(connect(&address, 0, config), server) }).await
}

async fn pairs() -> Vec<(Stream, Stream)> {
    let tls = Box::pin(tls_pair());
    within(async { vec![tcp_pair().await, unix_pair().await, tls.await] }).await
}

/// A server that answers `SSLRequest` with `answer` and closes.
async fn connect_to_answer(mode: SslMode, answer: &[u8]) -> Result<Stream, ConnectError> {
    let (listener, address) = listen().await;
    let config = client_config(mode, Some("ca.pem"));
    let server = async {
        let mut stream = accept(&listener).await;
        expect_bytes(&mut stream, 8).await;
        stream.write_all(answer).await.expect("written");
    };
    within(async { tokio::join!(connect(&address, 0, &config), server).0 }).await
}

#[tokio::test]
async fn bytes_arrive_in_order_on_every_kind_of_stream() {
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    for (mut client, mut server) in pairs().await {
        let kind = format!("{:?}", std::mem::discriminant(&client));
        let (written, received) = within(async {
            tokio::join!(client.write_all(&sent), expect_bytes(&mut server, sent.len()))
        })
        .await;
        written.expect("written");
        assert!(received.as_ref() == sent, "{kind}");
    }
}

#[tokio::test]
async fn pieces_are_written_in_order() {
    for (mut client, mut server) in pairs().await {
        let pieces = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"write")];
        let written = within(poll_fn(|cx| client.poll_write_vectored(cx, &pieces))).await;
        assert_eq!(written.expect("written"), 9);
        within(poll_fn(|cx| client.poll_flush(cx))).await.expect("flushed");
        let received = within(expect_bytes(&mut server, 9)).await;
        assert_eq!(received.as_ref(), b"one write");
    }
}

#[tokio::test]
async fn what_a_full_socket_kept_back_is_written_once_the_peer_reads() {
    for (mut client, mut server) in pairs().await {
        let (mut bytes, mut written, mut total) = (Vec::new(), 0, 0);
        // Until neither the socket nor TLS takes any more; what they did not take is not sent.
        while bytes.is_empty() {
            bytes.resize(1000, 7);
            let out =
                poll_fn(|cx| Poll::Ready(server.poll_write_out(cx, &mut bytes, &mut written)));
            if let Poll::Ready(taken) = out.await {
                total += taken.expect("written");
            }
        }
        bytes.clear();
        written = 0;
        let out = poll_fn(|cx| {
            let written = server.poll_write_out(cx, &mut bytes, &mut written);
            assert!(!matches!(written, Poll::Ready(Err(_))), "{written:?}");
            Poll::<()>::Pending
        });
        let received = within(async {
            tokio::select! { biased; () = out => None, bytes = expect_bytes(&mut client, total) => Some(bytes) }
        });
        assert_eq!(received.await.map(|bytes| bytes.len()), Some(total));
    }
}

#[tokio::test]
async fn a_read_fills_the_spare_capacity_and_no_more() {
    for (mut client, mut server) in pairs().await {
        within(client.write_all(&[7; 1000])).await.expect("written");
        let mut bytes = BytesMut::with_capacity(100);
        let capacity = bytes.capacity();
        while bytes.len() < capacity {
            assert_ne!(within(server.read(&mut bytes)).await.expect("a read"), 0);
        }
        assert_eq!(bytes.capacity(), capacity);
        let error = within(server.read(&mut bytes)).await.expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(bytes.len(), capacity);
        // The rest is still there, and TLS knows it although the socket is empty.
        within(server.wait_readable()).await.expect("readable");
        assert_eq!(within(expect_bytes(&mut server, 1000 - capacity)).await.len(), 1000 - capacity);
    }
}

#[tokio::test]
async fn an_idle_stream_is_not_readable_and_a_sent_byte_makes_it_so() {
    for (mut client, mut server) in pairs().await {
        // A new socket may be called readable wrongly; one fruitless read settles that.
        let mut bytes = BytesMut::with_capacity(10);
        let read = poll_fn(|cx| Poll::Ready(server.poll_read(cx, &mut bytes))).await;
        assert!(read.is_pending(), "{server:?}");
        let ready = poll_fn(|cx| Poll::Ready(server.poll_read_ready(cx))).await;
        assert!(ready.is_pending(), "{server:?}");
        within(poll_fn(|cx| client.poll_write_ready(cx))).await.expect("writable");
        within(client.write_all(b"x")).await.expect("written");
        within(server.wait_readable()).await.expect("readable");
        assert_eq!(within(expect_bytes(&mut server, 1)).await.as_ref(), b"x");
    }
}

#[tokio::test]
async fn a_closed_peer_reads_as_the_end() {
    for farewell in [true, false] {
        for (mut client, mut server) in pairs().await {
            if farewell {
                within(poll_fn(|cx| client.poll_shutdown(cx))).await.expect("shut down");
            }
            drop(client);
            within(server.wait_readable()).await.expect("readable");
            let mut bytes = BytesMut::with_capacity(10);
            assert_eq!(within(server.read(&mut bytes)).await.expect("the end"), 0);
            assert_eq!(within(server.read(&mut bytes)).await.expect("the end"), 0);
        }
    }
}

#[tokio::test]
async fn a_stream_says_who_is_at_the_other_end() {
    let [tcp, unix, tls] = <[_; 3]>::try_from(pairs().await).expect("three kinds");
    for (client, server) in [&tcp, &tls] {
        assert_eq!(client.local().expect("bound"), server.peer().expect("connected"));
        assert!(server.peer().expect("connected").to_string().starts_with("127.0.0.1:"));
        assert_eq!(server.peer_uid().expect("no uid"), None);
        server.tune().expect("a TCP option");
    }
    let (client, server) = &unix;
    assert_eq!(server.peer().expect("connected").to_string(), "unix");
    assert_eq!(server.peer_uid().expect("a uid"), client.peer_uid().expect("a uid"));
    assert!(server.peer_uid().expect("a uid").is_some());
    server.tune().expect("nothing to do");
    assert_eq!(tcp.0.tls_description(), None);
    let description = tls.1.tls_description().expect("under TLS");
    assert!(description.starts_with("TLSv1.3/TLS_"), "{description}");
    assert!(tls.0.is_tls() && !tcp.0.is_tls() && !unix.0.is_tls());
}

#[test]
fn a_host_is_read_as_libpq_reads_it() {
    let unix = |path: &str| Address::Unix { path: PathBuf::from(path) };
    let tcp = |host: &str| Address::Tcp { host: host.to_owned(), port: 5433 };
    for (host, expected) in [
        ("/run/postgresql", unix("/run/postgresql/.s.PGSQL.5433")),
        ("@pg", unix("\0pg/.s.PGSQL.5433")),
        ("db.example", tcp("db.example")),
        ("::1", tcp("::1")),
    ] {
        assert_eq!(Address::new(host, 5433), expected, "{host}");
    }
}

/// Whether a client in `mode` accepts the server certificate `name` at 127.0.0.1.
async fn check_mode(mode: SslMode, ca: Option<&str>, name: &str, expected: Result<(), &str>) {
    let (result, _) = tls_meeting(name, None, "127.0.0.1", &client_config(mode, ca)).await;
    let what = format!("{mode:?} {ca:?} {name}");
    match (result, expected) {
        (Ok(stream), Ok(())) => assert!(stream.is_tls(), "{what}"),
        (Err(ConnectError::Handshake(error)), Err(cause)) => {
            assert!(error.to_string().contains(cause), "{what}: {error}");
        }
        (result, _) => panic!("{what}: {result:?}"),
    }
}

#[tokio::test]
async fn each_sslmode_verifies_what_postgresql_says() {
    use SslMode::{Allow, Prefer, Require, VerifyCa, VerifyFull};
    let ca = Some("ca.pem");
    for mode in [Allow, Prefer, Require] {
        for name in ["server", "elsewhere", "self_signed", "expired"] {
            check_mode(mode, None, name, Ok(())).await;
        }
    }
    for mode in [Allow, Prefer] {
        check_mode(mode, ca, "self_signed", Ok(())).await;
    }
    for mode in [Require, VerifyCa] {
        check_mode(mode, ca, "server", Ok(())).await;
        check_mode(mode, ca, "elsewhere", Ok(())).await;
        check_mode(mode, ca, "self_signed", Err("CaUsedAsEndEntity")).await;
    }
    check_mode(VerifyFull, ca, "server", Ok(())).await;
    check_mode(VerifyFull, ca, "elsewhere", Err("not valid for name")).await;
    check_mode(VerifyFull, ca, "self_signed", Err("CaUsedAsEndEntity")).await;
}

/// A server that shows a certificate which the library reads for neither side; PostgreSQL does.
async fn connect_to_version_1(config: &TlsClientConfig) -> Result<Stream, ConnectError> {
    let provider = ring::default_provider();
    let key = PrivateKeyDer::from_pem_file(pem("version1.key")).expect("a key");
    let key = provider.key_provider.load_private_key(key).expect("a usable key");
    let certificate = CertificateDer::from_pem_file(pem("version1.pem")).expect("a certificate");
    let shown = CertifiedKey::new(vec![certificate], key);
    let server = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (listener, address) = listen().await;
    let serve = async {
        let mut stream = accept(&listener).await;
        expect_bytes(&mut stream, 8).await;
        stream.write_all(b"S").await.expect("written");
        let Stream::Tcp(stream) = stream else { panic!("TCP") };
        acceptor.accept(stream).await
    };
    within(async { tokio::join!(connect(&address, 0, config), serve).0 }).await
}

#[tokio::test]
async fn a_certificate_of_version_1_does_where_nothing_is_verified() {
    for mode in [SslMode::Prefer, SslMode::Require] {
        connect_to_version_1(&client_config(mode, None)).await.expect("connected");
    }
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let result = connect_to_version_1(&client_config(mode, Some("ca.pem"))).await;
        assert!(matches!(result, Err(ConnectError::Handshake(_))), "{mode:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_certificate_in_the_ca_file_may_be_shown_itself_until_it_expires() {
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        check_mode(mode, Some("self_signed.pem"), "self_signed", Ok(())).await;
        check_mode(mode, Some("expired.pem"), "expired", Err("expired")).await;
        check_mode(mode, Some("self_signed.pem"), "server", Err("UnknownIssuer")).await;
    }
    check_mode(SslMode::VerifyCa, Some("elsewhere.pem"), "elsewhere", Ok(())).await;
    check_mode(SslMode::VerifyFull, Some("elsewhere.pem"), "elsewhere", Err("not valid for name"))
        .await;
}

#[tokio::test]
async fn a_server_without_tls_is_taken_by_the_modes_that_do_not_insist() {
    for mode in [SslMode::Allow, SslMode::Prefer] {
        let stream = connect_to_answer(mode, b"N").await.expect("in the clear");
        assert!(!stream.is_tls());
    }
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let result = connect_to_answer(mode, b"N").await;
        assert!(matches!(result, Err(ConnectError::TlsRefused)), "{mode:?}: {result:?}");
    }
}

#[tokio::test]
async fn bytes_beside_the_answer_to_ssl_request_are_refused() {
    for answer in [b"SR".as_slice(), b"S\0\0\0\0", b"NR"] {
        let result = connect_to_answer(SslMode::Prefer, answer).await;
        assert!(matches!(result, Err(ConnectError::BytesBeforeTls)), "{answer:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_strange_answer_to_ssl_request_is_no_connection() {
    for answer in [b"E".as_slice(), b"EFATAL", b"H"] {
        let result = connect_to_answer(SslMode::Prefer, answer).await;
        assert!(
            matches!(result, Err(ConnectError::UnexpectedAnswer(byte)) if byte == answer[0]),
            "{answer:?}: {result:?}"
        );
    }
    let result = connect_to_answer(SslMode::Prefer, b"").await;
    assert!(matches!(result, Err(ConnectError::Closed)), "{result:?}");
}

#[tokio::test]
async fn a_refused_connection_is_an_io_error() {
    let (listener, address) = listen().await;
    drop(listener);
    let result = within(connect(&address, 0, &TlsClientConfig::disabled())).await;
    assert!(matches!(result, Err(ConnectError::Io(_))), "{result:?}");
}

#[tokio::test]
async fn bytes_sent_before_the_handshake_are_refused() {
    let (_client, server) = within(tcp_pair()).await;
    let result = within(accept_tls(server, &server_config("server", None), b"Q")).await;
    assert!(matches!(result, Err(AcceptError::BytesBeforeTls)), "{result:?}");
}

#[tokio::test]
async fn tls_is_not_offered_on_a_unix_socket() {
    let (_client, server) = within(unix_pair()).await;
    let result = within(accept_tls(server, &server_config("server", None), &[])).await;
    assert!(matches!(result, Err(AcceptError::NotTcp)), "{result:?}");
}

#[tokio::test]
async fn noise_instead_of_a_handshake_is_an_error() {
    let (mut client, server) = within(tcp_pair()).await;
    let config = server_config("server", None);
    let (result, written) = within(async {
        tokio::join!(accept_tls(server, &config, &[]), client.write_all(b"\0\0\0\x08\0\x03\0\0"))
    })
    .await;
    written.expect("written");
    assert!(matches!(result, Err(AcceptError::Handshake(_))), "{result:?}");
}

#[tokio::test]
async fn with_a_ca_file_clients_have_to_show_its_certificates() {
    let load = |identity: Option<(PathBuf, PathBuf)>| {
        let identity = identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        TlsClientConfig::load(SslMode::Require, None, identity, &Offer::default())
            .expect("the files are in order")
    };
    let known = load(Some((pem("client.pem"), pem("client.key"))));
    let stranger = load(Some((pem("self_signed.pem"), pem("self_signed.key"))));
    for (config, expected) in [(load(None), false), (stranger, false), (known, true)] {
        let (_, accepted) = tls_meeting("server", Some("ca.pem"), "127.0.0.1", &config).await;
        assert_eq!(accepted.is_ok(), expected, "{accepted:?}");
    }
    let unasked = load(Some((pem("client.pem"), pem("client.key"))));
    let (_, accepted) = tls_meeting("server", None, "localhost", &unasked).await;
    accepted.expect("a certificate that nobody asked for does no harm");
}

#[tokio::test]
async fn a_certificate_of_version_1_counts_where_its_authority_is_listed() {
    let identity = (pem("version1.pem"), pem("version1.key"));
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        let wanted = Wanted { protocols, ciphers: "default", tls13_ciphers: "" };
        let offer = Offer::of(wanted).expect("supported");
        let identity = Some((identity.0.as_path(), identity.1.as_path()));
        let client = |mode: SslMode, ca: &str| {
            TlsClientConfig::load(mode, Some(&pem(ca)), identity, &offer).expect("in order")
        };
        // It has signed itself, and so is its own authority.
        for (clients_ca, expected) in [("version1.pem", true), ("ca.pem", false)] {
            let config = client(SslMode::VerifyFull, "version1.pem");
            let (_, accepted) =
                tls_meeting("version1", Some(clients_ca), "localhost", &config).await;
            assert_eq!(accepted.is_ok(), expected, "{protocols} {clients_ca}: {accepted:?}");
        }
        for (mode, ca, host, expected) in [
            (SslMode::VerifyFull, "version1.pem", "localhost", true),
            (SslMode::VerifyFull, "version1.pem", "127.0.0.1", false),
            (SslMode::VerifyCa, "version1.pem", "127.0.0.1", true),
            (SslMode::VerifyCa, "ca.pem", "localhost", false),
        ] {
            let (connected, _) = tls_meeting("version1", None, host, &client(mode, ca)).await;
            assert_eq!(connected.is_ok(), expected, "{protocols} {mode:?} {ca} {host}");
        }
    }
}

#[tokio::test]
async fn a_certificate_without_alternative_names_is_of_its_common_name() {
    for (name, host, expected) in [
        ("common_name", "localhost", true),
        ("common_name", "127.0.0.1", false),
        ("self_signed", "127.0.0.1", true),
        ("elsewhere", "localhost", false),
    ] {
        let ca = if name == "elsewhere" { "ca.pem".to_owned() } else { format!("{name}.pem") };
        let config = client_config(SslMode::VerifyFull, Some(&ca));
        let (connected, _) = tls_meeting(name, None, host, &config).await;
        assert_eq!(connected.is_ok(), expected, "{name} {host}: {connected:?}");
    }
}

/// A direct TLS handshake that names these application protocols.
async fn direct_tls(protocols: Vec<Vec<u8>>) -> Result<Stream, AcceptError> {
    let (client, server) = tcp_pair().await;
    let Stream::Tcp(client) = client else { panic!("TCP") };
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(pem("ca.pem")).expect("a certificate");
    roots.add(authority).expect("an authority");
    let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").expect("a name");
    let accept = async {
        assert!(server.begins_with_tls().await.expect("a first byte"));
        accept_direct_tls(server, &server_config("server", None)).await
    };
    let (_, accepted) = tokio::join!(connector.connect(name, client), accept);
    accepted
}

#[tokio::test]
async fn direct_tls_has_to_name_postgresql() {
    let accepted = within(direct_tls(vec![b"postgresql".to_vec()])).await;
    assert!(accepted.expect("accepted").is_tls());
    let refused = within(direct_tls(Vec::new())).await;
    assert!(matches!(refused, Err(AcceptError::NoApplicationProtocol)), "{refused:?}");
    let refused = within(direct_tls(vec![b"http/1.1".to_vec()])).await;
    assert!(matches!(refused, Err(AcceptError::Handshake(_))), "{refused:?}");
}

#[tokio::test]
async fn a_startup_packet_does_not_begin_with_tls() {
    let (mut client, mut server) = within(tcp_pair()).await;
    within(client.write_all(&[0, 0, 0, 8])).await.expect("written");
    assert!(!within(server.begins_with_tls()).await.expect("a first byte"));
    assert_eq!(within(expect_bytes(&mut server, 4)).await.as_ref(), [0, 0, 0, 8]);
    drop(client);
    assert!(!within(server.begins_with_tls()).await.expect("the end"));
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let load = |cert: &str, key: &str, ca: Option<&str>| {
        let ca = ca.map(pem);
        let clients = required(ca.as_deref());
        TlsServerConfig::load(&pem(cert), &pem(key), clients, &Offer::default())
            .err()
            .map(|error| error.to_string())
    };
    for (cert, key, ca, file, cause) in [
        ("none.pem", "server.key", None, "none.pem", "No such file"),
        ("server.pem", "none.key", None, "none.key", "No such file"),
        ("server.pem", "server.key", Some("none.pem"), "none.pem", "No such file"),
        ("README.md", "server.key", None, "README.md", "no certificate"),
        ("server.key", "server.key", None, "server.key", "no certificate"),
        ("server.pem", "server.pem", None, "server.pem", ""),
        ("server.pem", "client.key", None, "server.pem", "not usable"),
    ] {
        let error = load(cert, key, ca).expect("an error");
        assert!(error.contains(file) && error.contains(cause), "{cert} {key} {ca:?}: {error}");
    }
    assert_eq!(load("server.pem", "server.key", Some("ca.pem")), None);
    let error =
        TlsClientConfig::load(SslMode::VerifyCa, Some(&pem("none.pem")), None, &Offer::default())
            .err();
    assert!(error.expect("an error").to_string().contains("none.pem"));
}

#[test]
fn disable_reads_no_file() {
    let config =
        TlsClientConfig::load(SslMode::Disable, Some(&pem("none.pem")), None, &Offer::default());
    assert_eq!(config.expect("nothing to read").mode(), SslMode::Disable);
}

#[test]
fn sslmodes_have_postgresql_spelling() {
    for (text, mode) in [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ] {
        assert_eq!(text.parse(), Ok(mode));
    }
    assert_eq!("verify_full".parse::<SslMode>(), Err(()));
}

/// Every client's task has room for the largest future it ever awaits, for as long as it lives.
#[tokio::test]
async fn futures_stay_small() {
    let (client, server) = within(tcp_pair()).await;
    let (config, address) = (server_config("server", None), Address::new("localhost", 1));
    let sizes = [
        size_of_val(&connect(&address, 0, &TlsClientConfig::disabled())),
        size_of_val(&accept_tls(client, &config, &[])),
        size_of_val(&accept_direct_tls(server, &config)),
    ];
    assert!(sizes.iter().all(|size| *size <= 400), "{sizes:?}");
}

#[test]
fn a_client_configuration_is_the_same_while_its_files_are() {
    let ca = std::env::temp_dir().join(format!("forebay-ca-{}.pem", std::process::id()));
    std::fs::copy(pem("ca.pem"), &ca).expect("copied");
    let load = |mode: SslMode, protocols: &str| {
        let wanted = Wanted { protocols, ciphers: "default", tls13_ciphers: "" };
        let offer = Offer::of(wanted).expect("supported");
        TlsClientConfig::load(mode, Some(&ca), None, &offer).expect("the files are in order")
    };
    let first = load(SslMode::VerifyCa, "secure");
    assert!(first.is_same(&load(SslMode::VerifyCa, "all")));
    assert!(!first.is_same(&load(SslMode::VerifyFull, "secure")));
    assert!(!first.is_same(&load(SslMode::VerifyCa, "tlsv1.3")));
    std::fs::copy(pem("self_signed.pem"), &ca).expect("copied");
    assert!(!first.is_same(&load(SslMode::VerifyCa, "secure")));
    std::fs::remove_file(&ca).expect("removed");
}
