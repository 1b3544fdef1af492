//! What is asked, as bytes: one statement by one of the three ways that applications ask it.

use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;

use crate::message::{length, text, write};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Protocol {
    /// Query, the parameter in the text.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync.
    Extended,
    /// The same with a Parse at the start alone.
    Prepared,
}

/// Stands in a statement for a number from 1 to `distinct`.
const PARAMETER: &str = ":n";

const NAME: &str = "wire";

pub(crate) struct Statement {
    protocol: Protocol,
    sql: String,
    distinct: u64,
    has_parameter: bool,
}

impl Statement {
    pub(crate) fn new(protocol: Protocol, sql: &str, distinct: u64) -> Self {
        let has_parameter = sql.contains(PARAMETER);
        let sql = match protocol {
            Protocol::Simple => sql.to_owned(),
            Protocol::Extended | Protocol::Prepared => sql.replace(PARAMETER, "$1"),
        };
        Self { protocol, sql, distinct: distinct.max(1), has_parameter }
    }

    /// What a connection sends before its first request.
    pub(crate) fn write_preparation(&self, out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Simple | Protocol::Extended => {}
            Protocol::Prepared => {
                self.write_parse(out, NAME);
                write(out, b'S', |_| ());
            }
        }
    }

    /// One request, answered by one `ReadyForQuery`.
    pub(crate) fn write_request(&self, out: &mut Vec<u8>, rng: &mut StdRng) {
        let value = if self.has_parameter { rng.random_range(1..=self.distinct) } else { 0 };
        let value = value.to_string();
        match self.protocol {
            Protocol::Simple if self.has_parameter => {
                write(out, b'Q', |out| text(out, &self.sql.replace(PARAMETER, &value)));
            }
            Protocol::Simple => write(out, b'Q', |out| text(out, &self.sql)),
            Protocol::Extended => {
                self.write_parse(out, "");
                self.write_execution(out, "", &value);
            }
            Protocol::Prepared => self.write_execution(out, NAME, &value),
        }
    }

    fn write_parse(&self, out: &mut Vec<u8>, name: &str) {
        write(out, b'P', |out| {
            text(out, name);
            text(out, &self.sql);
            out.extend_from_slice(&[0, 0]);
        });
    }

    /// The parameter and the columns in text, as pgbench has them.
    fn write_execution(&self, out: &mut Vec<u8>, name: &str, value: &str) {
        write(out, b'B', |out| {
            text(out, "");
            text(out, name);
            out.extend_from_slice(&[0, 0, 0, u8::from(self.has_parameter)]);
            if self.has_parameter {
                out.extend_from_slice(&length(value.len()));
                out.extend_from_slice(value.as_bytes());
            }
            out.extend_from_slice(&[0, 0]);
        });
        write(out, b'D', |out| text(out, "P"));
        write(out, b'E', |out| out.extend_from_slice(&[0; 5]));
        write(out, b'S', |_| ());
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn request(protocol: Protocol, sql: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rng = StdRng::seed_from_u64(1);
        Statement::new(protocol, sql, 1).write_request(&mut out, &mut rng);
        out
    }

    #[test]
    fn a_simple_query_has_the_number_in_its_text() {
        assert_eq!(request(Protocol::Simple, "SELECT :n"), b"Q\0\0\0\rSELECT 1\0");
        assert_eq!(request(Protocol::Simple, "SELECT"), b"Q\0\0\0\x0bSELECT\0");
    }

    #[test]
    fn a_prepared_one_has_it_in_bind() {
        let asked = b"B\0\0\0\x15\0wire\0\0\0\0\x01\0\0\0\x011\0\0D\0\0\0\x06P\0E\0\0\0\t\0\0\0\0\0S\0\0\0\x04";
        assert_eq!(request(Protocol::Prepared, "SELECT :n"), asked);
    }

    #[test]
    fn numbers_are_from_one_to_how_many_are_distinct() {
        let mut rng = StdRng::seed_from_u64(1);
        let statement = Statement::new(Protocol::Simple, ":n", 3);
        let mut seen = [false; 3];
        for _ in 0..100 {
            let mut out = Vec::new();
            statement.write_request(&mut out, &mut rng);
            seen[usize::from(out[5] - b'1')] = true;
        }
        assert_eq!(seen, [true; 3]);
    }
}
