//! A server that answers every statement at once with the same rows, on one thread. Enough for
//! poolers that keep no answers: nothing is remembered of a session, no transaction is ever open,
//! and what is prepared is taken for a SELECT.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::message::{HEADER_BYTES, number, text, whole, whole_packet, write};

const READ_BYTES: usize = 16 << 10;

const CANCEL_REQUEST: usize = 80_877_102;
const SSL_REQUEST: usize = 80_877_103;
const GSSENC_REQUEST: usize = 80_877_104;

const INT4: i32 = 23;

/// What PostgreSQL 15 tells of itself at the end of a login.
const REPORTED: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.18"),
    ("session_authorization", "user"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "Etc/UTC"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    port: u16,
    /// In every answer.
    #[arg(long, default_value_t = 1)]
    rows: u16,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        accept(listener, options.rows).await
    })
}

pub(crate) async fn accept(listener: TcpListener, rows: u16) -> io::Result<()> {
    let answer = Arc::new(Answer::new(rows));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            if let Err(error) = serve(stream, &answer).await {
                eprintln!("wire: a connection: {error}");
            }
        });
    }
}

async fn serve(mut stream: TcpStream, answer: &Answer) -> io::Result<()> {
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut output = Vec::with_capacity(READ_BYTES);
    let mut is_in = false;
    loop {
        while let Some(total) = if is_in { whole(&input)? } else { whole_packet(&input)? } {
            let message = input.get(..total).unwrap_or_default();
            if is_in {
                if message.first() == Some(&b'X') {
                    return Ok(());
                }
                answer.write(&mut output, message);
            } else {
                match message.get(4..8).map_or(0, number) {
                    SSL_REQUEST | GSSENC_REQUEST => output.push(b'N'),
                    CANCEL_REQUEST => return Ok(()),
                    _ => {
                        is_in = true;
                        write_greeting(&mut output);
                    }
                }
            }
            input.advance(total);
        }
        if !output.is_empty() {
            stream.write_all(&output).await?;
            output.clear();
        }
        input.reserve(READ_BYTES);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

fn write_greeting(out: &mut Vec<u8>) {
    write(out, b'R', |out| out.extend_from_slice(&[0; 4]));
    for (name, value) in REPORTED {
        write(out, b'S', |out| {
            text(out, name);
            text(out, value);
        });
    }
    write(out, b'K', |out| out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]));
    write_ready(out);
}

fn write_ready(out: &mut Vec<u8>) {
    write(out, b'Z', |out| out.push(b'I'));
}

/// What every SELECT is answered with.
struct Answer {
    description: Vec<u8>,
    /// With its `CommandComplete`.
    rows: Vec<u8>,
}

impl Answer {
    fn new(rows: u16) -> Self {
        let mut answer = Self { description: Vec::new(), rows: Vec::new() };
        write(&mut answer.description, b'T', |out| {
            out.extend_from_slice(&[0, 1]);
            text(out, "abalance");
            // No table and no column of one.
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&INT4.to_be_bytes());
            out.extend_from_slice(&4_i16.to_be_bytes());
            // No modifier, in text.
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            out.extend_from_slice(&[0, 0]);
        });
        for _ in 0..rows {
            write(&mut answer.rows, b'D', |out| out.extend_from_slice(b"\0\x01\0\0\0\x041234"));
        }
        write(&mut answer.rows, b'C', |out| text(out, &format!("SELECT {rows}")));
        answer
    }

    fn write(&self, out: &mut Vec<u8>, message: &[u8]) {
        let (head, body) = message.split_at_checked(HEADER_BYTES).unwrap_or_default();
        match head.first() {
            Some(b'Q') => {
                self.write_simple(out, body);
                write_ready(out);
            }
            Some(b'P') => write(out, b'1', |_| ()),
            Some(b'B') => write(out, b'2', |_| ()),
            Some(b'C') => write(out, b'3', |_| ()),
            Some(b'D') => {
                if body.first() == Some(&b'S') {
                    write(out, b't', |out| {
                        out.extend_from_slice(&[0, 1]);
                        out.extend_from_slice(&INT4.to_be_bytes());
                    });
                }
                out.extend_from_slice(&self.description);
            }
            Some(b'E') => out.extend_from_slice(&self.rows),
            Some(b'S') => write_ready(out),
            _ => {}
        }
    }

    fn write_simple(&self, out: &mut Vec<u8>, body: &[u8]) {
        let sql = body.trim_ascii_start();
        let word = sql.split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
        if word.is_empty() {
            write(out, b'I', |_| ());
        } else if word.eq_ignore_ascii_case(b"select") {
            out.extend_from_slice(&self.description);
            out.extend_from_slice(&self.rows);
        } else {
            write(out, b'C', |out| {
                out.extend(word.to_ascii_uppercase());
                out.push(0);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The types of the messages that a message is answered with.
    fn answered(message: &[u8]) -> String {
        let mut out = Vec::new();
        Answer::new(2).write(&mut out, message);
        let mut rest = out.as_slice();
        let mut tags = String::new();
        while let Some(total) = whole(rest).unwrap() {
            tags.push(char::from(rest[0]));
            rest = &rest[total..];
        }
        assert!(rest.is_empty());
        tags
    }

    fn message(tag: u8, body: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, tag, |out| text(out, body));
        out
    }

    #[test]
    fn a_query_is_answered_as_its_first_word_asks() {
        assert_eq!(answered(&message(b'Q', "select 1")), "TDDCZ");
        assert_eq!(answered(&message(b'Q', "SET a = 1")), "CZ");
        assert_eq!(answered(&message(b'Q', ";")), "IZ");
    }

    #[test]
    fn each_extended_message_has_its_answer() {
        let answers = [(b'P', "1"), (b'B', "2"), (b'E', "DDC"), (b'C', "3"), (b'S', "Z")];
        for (tag, answer) in answers {
            assert_eq!(answered(&message(tag, "")), answer);
        }
        assert_eq!(answered(&message(b'D', "S")), "tT");
        assert_eq!(answered(&message(b'D', "P")), "T");
    }
}
