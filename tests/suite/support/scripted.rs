//! A fake PostgreSQL that does what a test says: for replies a real one never gives, and for
//! connections that end at the worst moment.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use super::DEADLINE;
use super::raw::message;

/// What to do about one message of the pooler.
pub enum Reply {
    /// These bytes.
    Send(Vec<u8>),
    /// Close the connection.
    Cut,
    /// These bytes, then close the connection.
    SendAndCut(Vec<u8>),
}

/// What one connection does about a message, by its tag and body.
pub type Script = Box<dyn FnMut(u8, &[u8]) -> Reply + Send>;

/// Listens until the test program ends. Logins succeed without a password; what follows is the
/// script's, which is called with the tag and the body of every message.
pub struct ScriptedServer {
    pub port: u16,
}

impl ScriptedServer {
    pub fn start(script: impl Fn(u8, &[u8]) -> Reply + Send + Sync + 'static) -> Self {
        let script = Arc::new(script);
        Self::start_each(move || {
            let script = Arc::clone(&script);
            Box::new(move |tag, body| script(tag, body))
        })
    }

    /// One that speaks protocol 3.0 alone, and does not negotiate.
    pub fn start_old(script: impl Fn(u8, &[u8]) -> Reply + Send + Sync + 'static) -> Self {
        let script = Arc::new(script);
        let each = move || -> Script {
            let script = Arc::clone(&script);
            Box::new(move |tag, body| script(tag, body))
        };
        Self::listen(each, 0)
    }

    /// With a script of its own for each connection.
    pub fn start_each(script: impl Fn() -> Script + Send + 'static) -> Self {
        Self::listen(script, u32::MAX)
    }

    fn listen(script: impl Fn() -> Script + Send + 'static, minor_max: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let script = script();
                std::thread::spawn(move || {
                    // It ends when the pooler hangs up or the script cuts; both are wanted.
                    let _end = serve(stream.unwrap(), script, minor_max);
                });
            }
        });
        Self { port }
    }

    pub fn url(&self) -> String {
        let (user, password) = (super::postgres::USER, super::postgres::PASSWORD);
        format!("postgres://{user}:{password}@127.0.0.1:{}/app?sslmode=disable", self.port)
    }
}

fn serve(mut stream: TcpStream, mut script: Script, minor_max: u32) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut startup)?;
    let minor = u32::from(u16::from_be_bytes([startup[2], startup[3]]));
    if minor > minor_max {
        let error = b"SFATAL\0VFATAL\0C0A000\0Munsupported frontend protocol\0\0";
        return stream.write_all(&message(b'E', error));
    }
    let parameter =
        |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
    let greeting = [
        message(b'R', &[0; 4]),
        parameter("server_version", "15.0"),
        parameter("server_encoding", "UTF8"),
        parameter("client_encoding", "UTF8"),
        parameter("DateStyle", "ISO, MDY"),
        parameter("TimeZone", "UTC"),
        parameter("integer_datetimes", "on"),
        parameter("standard_conforming_strings", "on"),
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        ready(),
    ];
    stream.write_all(&greeting.concat())?;
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body)?;
        match script(header[0], &body) {
            Reply::Send(bytes) => stream.write_all(&bytes)?,
            Reply::Cut => return Ok(()),
            Reply::SendAndCut(bytes) => return stream.write_all(&bytes),
        }
    }
}

pub fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

pub fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}
