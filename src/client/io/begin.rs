//! A task as it is before its client has said anything.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use crate::client::Shared;
use crate::client::registry::Entry;
use crate::client::session::Session;
use crate::net::Stream;
use crate::pool::io::Pool;
use crate::service::Service;

use super::Task;

/// What it has to be given.
pub struct Beginning {
    pub stream: Stream,
    pub input: BytesMut,
    /// What the client is to hear first.
    pub out: Vec<u8>,
    pub session: Session,
    pub pool: Arc<Pool>,
    pub entry: Arc<Entry>,
    pub service: Arc<Service>,
    pub shared: Arc<Shared>,
}

impl Task {
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { stream, input, out, session, pool, entry, service, shared } = beginning;
        let group = entry.called().group;
        Self {
            stream,
            input,
            out,
            written: 0,
            session: Box::new(session),
            pool,
            entry,
            group,
            service,
            shared,
            lease: None,
            leaving: None,
            now: Instant::now(),
            transaction_began: None,
            answer_owed: None,
            alarm: None,
            group_wait: None,
            away: Vec::new(),
        }
    }
}
