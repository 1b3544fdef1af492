//! Groups of messages that run nothing: answered here where PostgreSQL would say what is known.

use std::sync::Arc;
use std::time::Instant;

use crate::wire::backend::{self, Status};
use crate::wire::frontend::{self, Parse};

use super::check::Says;
use super::describe::Preparing;
use super::group::Group;
use super::look_up::Answer;
use super::session::Session;
use super::statements::Prepared;

impl Session {
    /// Groups of Parse, Describe, Close and Sync that need no answer from PostgreSQL.
    pub(super) fn answer_without_rows(
        &mut self,
        group: &Group,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Answer {
        if self.status() == Status::Failed {
            return Answer::Send;
        }
        if group.parts.iter().any(|part| part.tag == frontend::DESCRIBE) {
            match self.group_says_of(&[], now) {
                Says::Known => {}
                Says::Ask => return Answer::AskGroup,
                Says::Shut => return Answer::Send,
            }
        }
        match self.prepare(group) {
            Preparing::Known(descriptions) => {
                self.common.cache_counters.descriptions.add(descriptions.len() as u64);
                self.accept_without_server(group, descriptions, out);
                Answer::Done
            }
            Preparing::Otherwise(answer) => answer,
        }
    }

    /// Answers a group of Parse, Close and Sync here. A statement that PostgreSQL would refuse is
    /// refused at its first Bind instead; that is the price for a Parse that never waits for a
    /// server while other clients of the same program hold them all.
    pub fn accept_parse(&mut self, out: &mut Vec<u8>) {
        let group = std::mem::take(&mut self.work.group);
        self.accept_without_server(&group, Vec::new(), out);
        self.work.group = group;
        self.work.group.clear();
    }

    fn accept_without_server(
        &mut self,
        group: &Group,
        descriptions: Vec<Arc<[u8]>>,
        out: &mut Vec<u8>,
    ) {
        let mut descriptions = descriptions.into_iter();
        let generation = self.common.database.generation();
        for part in &group.parts {
            let body = group.body(part);
            match part.tag {
                frontend::PARSE => {
                    if let Ok(parse) = Parse::read(body) {
                        let statement = self.statement(parse.name, parse.sql, parse.types);
                        self.names.insert(parse.name, Prepared { statement, generation });
                        self.count_parse(parse.name);
                        out.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
                    }
                }
                frontend::DESCRIBE => {
                    out.extend_from_slice(&descriptions.next().unwrap_or_default());
                }
                frontend::CLOSE => {
                    if let Ok((_, name)) = frontend::target(body) {
                        if name.is_empty() {
                            self.names.unnamed = None;
                        }
                        self.names.close(name);
                        out.extend_from_slice(backend::CLOSE_COMPLETE_MESSAGE);
                    }
                }
                _ => backend::write_ready(out, self.status()),
            }
        }
    }
}
