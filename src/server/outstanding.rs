//! The replies a server owes, in the order they will come. It decides when the server may be
//! released, and which replies are forwarded, swallowed or made up; nothing reaches a client
//! past it.

use std::collections::VecDeque;

/// Which message a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    /// Query and FunctionCall: everything up to ReadyForQuery.
    Query,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    Forward,
    Swallow,
}

/// One thing owed.
#[derive(Debug, PartialEq, Eq)]
pub enum Owed {
    Expect {
        reply: Reply,
        deliver: Deliver,
        /// The shared statement that a Parse makes, forgotten again if it fails.
        statement: Option<u64>,
        /// The client's request this belongs to; what is to be done on completion is kept there.
        request: u64,
    },
    /// Sent to the client when all before it has been. With the request to be undone if an error
    /// has PostgreSQL ignore what this answers; 0: there is none.
    Invented(&'static [u8], u64),
}

/// Where CopyDone or CopyFail stands among the messages.
const COPY_END: Owed = Owed::Invented(b"", 0);

impl Owed {
    pub fn expect(reply: Reply, deliver: Deliver) -> Self {
        Self::Expect { reply, deliver, statement: None, request: 0 }
    }

    pub fn forward(reply: Reply, request: u64) -> Self {
        Self::Expect { reply, deliver: Deliver::Forward, statement: None, request }
    }

    pub fn prepare(statement: u64, deliver: Deliver) -> Self {
        Self::Expect { reply: Reply::Parse, deliver, statement: Some(statement), request: 0 }
    }
}

/// What an ErrorResponse did to the queue.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Skipped {
    /// Shared statements whose Parse failed or was skipped.
    pub statements: Vec<u64>,
    /// Requests (Execute, Parse …) that will never be answered.
    pub requests: Vec<u64>,
}

#[derive(Debug, Default)]
pub struct Outstanding {
    queue: VecDeque<Owed>,
    /// After an error in the extended protocol PostgreSQL ignores everything up to Sync, also
    /// what we have not sent yet.
    skipping: bool,
    /// The server takes a copy whose end has not been sent; it ignores Sync until then.
    copying: bool,
}

impl Outstanding {
    /// Records what has been appended to the server's bytes.
    /// False if PostgreSQL will ignore the message because it skips to the next Sync.
    pub fn push(&mut self, owed: Owed) -> bool {
        let is_sync = matches!(owed, Owed::Expect { reply: Reply::Sync, .. });
        if self.skipping && !is_sync {
            return false;
        }
        self.skipping = false;
        self.queue.push_back(owed);
        true
    }

    pub fn front(&self) -> Option<&Owed> {
        self.queue.front()
    }

    pub fn pop(&mut self) -> Option<Owed> {
        self.copying = false;
        self.queue.pop_front()
    }

    /// What may be told the client now without another byte from the server.
    pub fn pop_invented(&mut self) -> Option<(&'static [u8], u64)> {
        match self.queue.front() {
            Some(&Owed::Invented(bytes, request)) => {
                self.queue.pop_front();
                Some((bytes, request))
            }
            Some(Owed::Expect { .. }) | None => None,
        }
    }

    /// An ErrorResponse has come: in the extended protocol everything up to the next Sync will
    /// stay unanswered, a Query too; one that has failed itself is answered by its ReadyForQuery.
    pub fn skip_to_sync(&mut self) -> Skipped {
        self.copying = false;
        let mut skipped = Skipped::default();
        if matches!(self.queue.front(), Some(Owed::Expect { reply: Reply::Query, .. })) {
            return skipped;
        }
        loop {
            match self.queue.front() {
                Some(Owed::Expect { reply: Reply::Sync, .. }) => return skipped,
                None => {
                    self.skipping = true;
                    return skipped;
                }
                Some(Owed::Expect { statement, request, .. }) => {
                    skipped.statements.extend(*statement);
                    if *request != 0 {
                        skipped.requests.push(*request);
                    }
                }
                Some(Owed::Invented(_, 0)) => {}
                Some(Owed::Invented(_, request)) => skipped.requests.push(*request),
            }
            self.queue.pop_front();
        }
    }

    /// CopyDone or CopyFail was sent: a Sync from here on is answered again.
    pub fn copy_ends(&mut self) {
        self.copying = false;
        if !self.queue.is_empty() {
            self.push(COPY_END);
        }
    }

    /// CopyInResponse to an Execute or a Query: PostgreSQL ignores a Sync that was sent before CopyDone, and
    /// answers the one that follows it. Gives what the ignored Sync was to carry.
    pub fn ignore_sync_in_copy(&mut self) -> Option<u64> {
        self.copying = !self.queue.contains(&COPY_END);
        let sync = self.queue.get(1)?;
        let Owed::Expect { reply: Reply::Sync, request, .. } = sync else { return None };
        let request = *request;
        self.queue.remove(1);
        Some(request)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.skipping
    }

    /// Whether no reply is to be forwarded; some may have to be swallowed.
    pub fn owes_nobody(&self) -> bool {
        let swallowed =
            |owed: &Owed| matches!(owed, Owed::Expect { deliver: Deliver::Swallow, .. });
        !self.skipping && self.queue.iter().all(swallowed)
    }

    /// Whether the server runs a query of ours, whose result nobody is told.
    pub fn runs_ours(&self) -> bool {
        let ours = |owed: &Owed| {
            matches!(owed, Owed::Expect { reply: Reply::Query, deliver: Deliver::Swallow, .. })
        };
        self.front().is_some_and(ours)
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_copying(&self) -> bool {
        self.copying
    }

    pub fn is_skipping(&self) -> bool {
        self.skipping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(reply: Reply) -> Owed {
        Owed::forward(reply, 0)
    }

    #[test]
    fn an_error_skips_all_that_precedes_the_next_sync() {
        let mut outstanding = Outstanding::default();
        outstanding.push(Owed::prepare(7, Deliver::Swallow));
        outstanding.push(Owed::Invented(b"1", 0));
        outstanding.push(Owed::Invented(b"3", 2));
        outstanding.push(Owed::forward(Reply::Execute, 3));
        outstanding.push(forward(Reply::Sync));
        outstanding.push(forward(Reply::Parse));
        let skipped = outstanding.skip_to_sync();
        assert_eq!(skipped, Skipped { statements: vec![7], requests: vec![2, 3] });
        assert_eq!(outstanding.front(), Some(&forward(Reply::Sync)));
        assert_eq!(outstanding.len(), 2);
    }

    #[test]
    fn what_is_sent_while_postgresql_skips_is_never_owed() {
        let mut outstanding = Outstanding::default();
        outstanding.push(forward(Reply::Execute));
        outstanding.skip_to_sync();
        assert!(!outstanding.is_empty());
        assert!(!outstanding.push(forward(Reply::Bind)));
        assert!(outstanding.push(forward(Reply::Sync)));
        assert_eq!(outstanding.len(), 1);
    }

    #[test]
    fn an_error_in_a_query_leaves_its_ready_owed() {
        let mut outstanding = Outstanding::default();
        outstanding.push(forward(Reply::Query));
        assert_eq!(outstanding.skip_to_sync(), Skipped::default());
        assert_eq!(outstanding.len(), 1);
    }

    #[test]
    fn a_query_behind_an_error_is_skipped_too() {
        let mut outstanding = Outstanding::default();
        outstanding.push(Owed::forward(Reply::Parse, 1));
        outstanding.push(Owed::forward(Reply::Query, 2));
        outstanding.push(forward(Reply::Sync));
        assert_eq!(outstanding.skip_to_sync().requests, [1, 2]);
        assert_eq!(outstanding.front(), Some(&forward(Reply::Sync)));
        outstanding.pop();
        outstanding.push(forward(Reply::Parse));
        outstanding.skip_to_sync();
        assert!(!outstanding.push(forward(Reply::Query)));
        assert!(outstanding.is_skipping() && outstanding.push(forward(Reply::Sync)));
    }

    #[test]
    fn an_invented_reply_waits_for_what_is_before_it() {
        let mut outstanding = Outstanding::default();
        outstanding.push(forward(Reply::Bind));
        outstanding.push(Owed::Invented(b"1", 0));
        assert_eq!(outstanding.pop_invented(), None);
        outstanding.pop();
        assert_eq!(outstanding.pop_invented(), Some((&b"1"[..], 0)));
        assert!(outstanding.is_empty());
    }

    #[test]
    fn a_sync_behind_the_end_of_a_copy_is_answered() {
        let mut outstanding = Outstanding::default();
        outstanding.push(forward(Reply::Execute));
        outstanding.copy_ends();
        outstanding.push(Owed::forward(Reply::Sync, 9));
        assert_eq!(outstanding.ignore_sync_in_copy(), None);
        outstanding.pop();
        assert_eq!(outstanding.pop_invented(), Some((&b""[..], 0)));
        assert_eq!(outstanding.len(), 1);
    }

    #[test]
    fn a_sync_while_the_server_copies_is_not_owed() {
        let mut outstanding = Outstanding::default();
        outstanding.push(forward(Reply::Execute));
        outstanding.ignore_sync_in_copy();
        assert!(outstanding.is_copying());
        outstanding.copy_ends();
        assert!(!outstanding.is_copying());
        // Its end was on the way already.
        outstanding.ignore_sync_in_copy();
        assert!(!outstanding.is_copying());
    }

    #[test]
    fn the_sync_sent_with_a_copy_is_not_answered() {
        let mut outstanding = Outstanding::default();
        outstanding.push(forward(Reply::Execute));
        outstanding.push(Owed::forward(Reply::Sync, 9));
        assert_eq!(outstanding.ignore_sync_in_copy(), Some(9));
        assert_eq!(outstanding.len(), 1);
    }
}
