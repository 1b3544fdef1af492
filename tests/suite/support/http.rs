//! A client of the HTTP port that sends what it is told to and reads to the end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::DEADLINE;

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// `None`: the connection was closed without an answer.
pub fn read(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    // Whoever is refused may find the connection reset behind the answer.
    let _reset = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    Some(Answer { status, headers: lines.map(header).collect(), body: body.to_owned() })
}

/// Sends this head, without the empty line at its end.
pub fn send(port: u16, head: &str) -> Answer {
    let mut stream = connect(port);
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
    read(&mut stream).expect("no answer")
}

pub fn get(port: u16, path: &str) -> Answer {
    get_with(port, path, "accept: */*")
}

/// With one more header.
pub fn get_with(port: u16, path: &str, header: &str) -> Answer {
    send(port, &format!("GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\n{header}"))
}
