//! One connection that asks and waits for the answer.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::message::{HEADER_BYTES, broken, length, number, text, whole, write, write_packet};

/// Room for what is read at once; most answers are a hundredth of it.
const READ_BYTES: usize = 16 << 10;

const PROTOCOL_3_0: u32 = 196_608;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    address: String,
    user: String,
    password: String,
    database: String,
}

impl Url {
    /// `postgres://user:password@host:port/database`, nothing percent-encoded.
    pub(crate) fn parse(words: &str) -> Option<Self> {
        let rest = words.strip_prefix("postgres://")?;
        let (login, place) = rest.rsplit_once('@')?;
        let (address, database) = place.split_once('/')?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        Some(Self {
            address: address.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            database: database.to_owned(),
        })
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    input: BytesMut,
}

impl Connection {
    pub(crate) async fn open(url: &Url) -> io::Result<Self> {
        let stream = TcpStream::connect(&url.address).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, input: BytesMut::with_capacity(READ_BYTES) };
        let mut start = Vec::new();
        write_packet(&mut start, |out| {
            out.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
            for word in ["user", &url.user, "database", &url.database, ""] {
                text(out, word);
            }
        });
        connection.stream.write_all(&start).await?;
        connection.log_in(url).await?;
        Ok(connection)
    }

    async fn log_in(&mut self, url: &Url) -> io::Result<()> {
        let mut scram = None;
        loop {
            let (tag, body) = self.message().await?;
            let rest = body.get(4..).unwrap_or_default();
            let mut reply = Vec::new();
            match (tag, body.get(..4).map_or(0, number)) {
                (b'R', 5) => {
                    let salt = rest.try_into().map_err(io::Error::other)?;
                    let hash = md5_hash(url.user.as_bytes(), url.password.as_bytes(), salt);
                    write(&mut reply, b'p', |out| text(out, &hash));
                }
                (b'R', 10) => {
                    let channel = sasl::ChannelBinding::unsupported();
                    let client =
                        scram.insert(sasl::ScramSha256::new(url.password.as_bytes(), channel));
                    write(&mut reply, b'p', |out| {
                        text(out, sasl::SCRAM_SHA_256);
                        out.extend_from_slice(&length(client.message().len()));
                        out.extend_from_slice(client.message());
                    });
                }
                (b'R', 11) => {
                    let client = scram.as_mut().ok_or_else(|| broken("SASLContinue"))?;
                    client.update(rest)?;
                    write(&mut reply, b'p', |out| out.extend_from_slice(client.message()));
                }
                (b'R', 12) => scram.take().ok_or_else(|| broken("SASLFinal"))?.finish(rest)?,
                (b'E', _) => return Err(refused(&body)),
                (b'Z', _) => return Ok(()),
                _ => {}
            }
            self.stream.write_all(&reply).await?;
        }
    }

    /// Sends a request and reads until its `ReadyForQuery`. An error is the end: a bench that
    /// measures errors measures nothing.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        loop {
            while let Some(total) = whole(&self.input)? {
                let tag = self.input.first().copied();
                if tag == Some(b'E') {
                    return Err(refused(self.input.get(HEADER_BYTES..total).unwrap_or_default()));
                }
                self.input.advance(total);
                if tag == Some(b'Z') {
                    return Ok(());
                }
            }
            self.read().await?;
        }
    }

    async fn message(&mut self) -> io::Result<(u8, BytesMut)> {
        loop {
            if let Some(total) = whole(&self.input)? {
                let mut message = self.input.split_to(total);
                let tag = message.get_u8();
                message.advance(HEADER_BYTES - 1);
                return Ok((tag, message));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        self.input.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn refused(body: &[u8]) -> io::Error {
    let message = body.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"M"));
    broken(&String::from_utf8_lossy(message.unwrap_or(b"an error without a message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_four_parts() {
        let url = Url::parse("postgres://user:secret@127.0.0.1:6432/app").unwrap();
        let parts = [url.user, url.password, url.address, url.database];
        assert_eq!(parts, ["user", "secret", "127.0.0.1:6432", "app"]);
        assert_eq!(Url::parse("127.0.0.1:6432"), None);
    }

    #[test]
    fn an_error_says_what_the_server_said() {
        let said = refused(b"SERROR\0C42601\0Msyntax error\0\0").to_string();
        assert_eq!(said, "syntax error");
    }
}
