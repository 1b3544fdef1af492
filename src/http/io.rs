//! The connections of the HTTP port. The only file that knows hyper.
//!
//! A connection carries one request and has its time, so that whoever is slow, or says nothing, holds
//! one of a bounded number of places for a bounded time.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gateway::Gateway;
use crate::net::Stream;
use crate::net::listen::Listener;
use crate::stop;

use super::reply::Reply;
use super::request::{Asked, Refused, Wanted, decide, without_port};

/// Connections at once: a scraper, load balancers and some people need a handful.
const CONNECTIONS_MAX: usize = 64;

/// For a request to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Browsers send a few kilobytes of headers at most.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// To whoever comes when all places are taken.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Accepts until the process ends; where another one shares the port, until this one begins to stop,
/// so that a scraper or a balancer reaches the one that goes on.
pub async fn accept(listener: Listener, gateway: Arc<Gateway>) {
    let shares_port = gateway.config().listen.so_reuseport;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop::begun(&gateway), if shares_port => return,
        };
        match accepted {
            Ok(Stream::Tcp(stream)) => match Arc::clone(&room).try_acquire_owned() {
                Ok(place) => {
                    tokio::spawn(serve(stream, Arc::clone(&gateway), place));
                }
                Err(_all_taken) => refuse(stream),
            },
            Ok(Stream::Unix(_) | Stream::Tls(_)) => {}
            Err(error) => {
                // Too many open files, most likely; accepting again at once would spin.
                tracing::error!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Without waiting: its buffer is empty, and if that does not do, it is closed all the same.
fn refuse(stream: TcpStream) {
    tracing::debug!("an HTTP connection is one too many");
    let _told = stream.into_std().and_then(|mut stream: StdStream| stream.write(BUSY));
}

async fn serve(stream: TcpStream, gateway: Arc<Gateway>, place: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let gateway = Arc::clone(&gateway);
        async move { Ok::<_, Infallible>(answer(gateway, &request).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection failed"),
        Err(_too_long) => tracing::debug!("HTTP connection took too long"),
    }
    drop(place);
}

async fn answer(gateway: Arc<Gateway>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    response(match wanted(&gateway, request) {
        Err(refused) => {
            tracing::debug!(path = request.uri().path(), ?refused, "HTTP request refused");
            Reply::refused(refused)
        }
        Ok(wanted) => {
            // Looks at every client, and maybe at every entry: clients' threads have better to do.
            let made =
                tokio::task::spawn_blocking(move || Reply::of(&gateway, &wanted, Instant::now()));
            made.await.unwrap_or_else(|_panicked| Reply::failed())
        }
    })
}

fn wanted(gateway: &Gateway, request: &Request<Incoming>) -> Result<Wanted, Refused> {
    let asked = Asked {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        host: host(request),
        authorization: only(request, &AUTHORIZATION),
        accept: only(request, &ACCEPT).unwrap_or_default(),
    };
    decide(&asked, &gateway.config().admin)
}

/// The one of the URL counts before the header's.
fn host(request: &Request<Incoming>) -> Option<&str> {
    let of_url = request.uri().authority().map(hyper::http::uri::Authority::host);
    of_url.or_else(|| only(request, &HOST)).map(without_port)
}

/// `None`: there is none of this name, or several, or one that is no text.
fn only<'a>(request: &'a Request<Incoming>, name: &HeaderName) -> Option<&'a str> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let made = response.body(Full::new(Bytes::from(reply.body)));
    made.unwrap_or_else(|_no_such_header| Response::new(Full::default()))
}
