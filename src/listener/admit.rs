//! What a connection becomes once it has logged in: a client of a database with its session, one
//! that replicates, or a console.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use crate::admin::conversation::Access;
use crate::client::close::CloseReason;
use crate::client::io::{self as client_io, login_patience};
use crate::client::log::{log_connection, log_disconnection};
use crate::client::registry::{Entry, Hello, Registered, Room};
use crate::client::session::Session;
use crate::client::{relay, startup};
use crate::config::Config;
use crate::gateway::{Gateway, Opened};
use crate::net::{Peer, Stream};
use crate::pool::io::{Guest, Lease};
use crate::pool::{Common, PoolMode};
use crate::server::start::Start;
use crate::wire::startup::Replication;
use crate::{console, opening, plan, stop};

use super::newcomer::{Known, Newcomer};

pub(super) enum Admitted {
    Client(Box<Client>),
    Console(Box<console::io::Task>),
    Replication(Box<Relaying>),
}

pub(super) struct Client {
    task: client_io::Task,
    registered: Registered,
    guest: Guest,
}

pub(super) struct Relaying {
    registered: Registered,
    stream: Stream,
    input: BytesMut,
    out: Vec<u8>,
    lease: Lease,
    common: Arc<Common>,
}

impl Admitted {
    /// Serves it until it leaves or must; a client by a task of its own. `None`: by that.
    pub(super) async fn serve(self, gateway: &Arc<Gateway>) -> Option<CloseReason> {
        let reason = match self {
            Self::Client(client) => {
                // A task of its own is all that an idle client has, in one piece. What a block
                // captures lies there once, what an `async fn` is given twice.
                let Client { mut task, registered, guest } = *client;
                let gateway = Arc::clone(gateway);
                tokio::spawn(async move {
                    let reason = task.run().await;
                    log_disconnection(&gateway.config(), &registered.entry, &reason);
                    Box::pin(task.part(&reason)).await;
                    tracing::debug!(reason = %reason.text(), "connection closed");
                    // What a block does not name, it does not hold.
                    drop((registered, guest));
                });
                return None;
            }
            Self::Console(task) => {
                let (reason, registered) = Box::pin(task.run()).await;
                log_disconnection(&gateway.config(), &registered.entry, &reason);
                drop(registered);
                console::operate::console_left(gateway);
                reason
            }
            Self::Replication(relaying) => {
                let Relaying { registered, stream, input, out, lease, common } = *relaying;
                let entry = &registered.entry;
                let counted = (&**entry, &*common.counters);
                let reason = Box::pin(relay::run(stream, input, &out, lease, counted)).await;
                log_disconnection(&gateway.config(), entry, &reason);
                reason
            }
        };
        Some(reason)
    }
}

impl Newcomer {
    pub(super) async fn admit(&mut self, known: Known) -> Result<Admitted, CloseReason> {
        if known.console {
            self.admit_console(known)
        } else if known.replication == Replication::None {
            self.admit_client(known).await
        } else {
            Box::pin(self.admit_replication(known)).await
        }
    }

    fn admit_console(&mut self, known: Known) -> Result<Admitted, CloseReason> {
        let own = known.own.then_some(Access::All);
        let Some(access) = own.or_else(|| console::access(&self.gateway.config(), &known.user))
        else {
            return Err(CloseReason::LoginFailed("not allowed".into()));
        };
        let mut hello = self.hello(&known);
        console::DATABASE.clone_into(&mut hello.database);
        hello.console = true;
        // Not bound by max_client_conn: when clients are too many, somebody has to look.
        let room = match access {
            Access::All => Room::UNLIMITED,
            Access::Look => {
                let room = plan::room(&self.gateway.config(), console::DATABASE, &known.user);
                Room { clients: usize::MAX, ..room }
            }
        };
        let registered = self.gateway.shared.registry.enter(hello, room)?;
        let (stream, input) = self.take_stream()?;
        let mut out = known.out;
        let entry = &registered.entry;
        startup::authenticated(&mut out);
        startup::welcome(&mut out, &console::io::reported(), &entry.identity(), "");
        self.gateway.console_counters.login.one();
        log_connection(&self.gateway.config(), entry);
        let gateway = Arc::clone(&self.gateway);
        let task = console::io::Task::new(stream, input, out, access, registered, gateway);
        Ok(Admitted::Console(Box::new(task)))
    }

    fn hello(&self, known: &Known) -> Hello {
        let text = |peer: std::io::Result<Peer>| {
            peer.map_or_else(|_| String::new(), |peer| peer.to_string())
        };
        let stream = self.stream.as_ref();
        Hello {
            id: self.id,
            user: known.user.clone(),
            server_user: known.user.clone(),
            database: known.database.clone(),
            application_name: known
                .startup
                .parameter("application_name")
                .unwrap_or_default()
                .to_owned(),
            plain_name: known.plain_name.clone(),
            address: stream.map_or_else(String::new, |stream| text(stream.peer())),
            local: stream.map_or_else(String::new, |stream| text(stream.local())),
            tls: stream.and_then(Stream::tls_description),
            console: false,
            own: false,
            replication: known.replication,
            long_keys: known.startup.has_long_keys(),
            peer_id: self.gateway.config().listen.peer_id,
            fd: stream.map_or(-1, Stream::fd),
        }
    }

    /// A client that replicates: a server of its own, and what it says is its own affair.
    async fn admit_replication(&mut self, mut known: Known) -> Result<Admitted, CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        let config = gateway.config();
        let has_entry = |name: &str| config.databases.iter().any(|entry| entry.name == name);
        // To PostgreSQL the database of a physical one is a word that means nothing, and libpq
        // sends "replication".
        let name = match &config.default_database {
            Some(default)
                if known.replication == Replication::Physical && !has_entry(&known.database) =>
            {
                default.clone()
            }
            Some(_) | None => known.database.clone(),
        };
        let opened = gateway
            .pool(&name, &known.user)
            .ok_or_else(|| CloseReason::NoSuchDatabase(known.database.clone()))?;
        let start = opening::start(&known.startup, known.replication, &config)?;
        let registered = self.register(&known, &opened, &config)?;
        startup::authenticated(&mut known.out);
        let lease = self.take_server(&opened, &start, &registered, &mut known.out).await?;
        let reported = &lease.connection.reported;
        startup::welcome(&mut known.out, reported, &registered.entry.identity(), "");
        opened.pool.common.counters.login.one();
        let entry = &registered.entry;
        log_connection(&config, entry);
        entry.set_current(Some(Arc::clone(&lease.connection.link)));
        let (stream, input) = self.take_stream()?;
        let (out, common) = (known.out, Arc::clone(&opened.pool.common));
        let relaying = Box::new(Relaying { registered, stream, input, out, lease, common });
        Ok(Admitted::Replication(relaying))
    }

    /// Lets the client in if there is room for it.
    fn register(
        &self,
        known: &Known,
        opened: &Opened,
        config: &Config,
    ) -> Result<Registered, CloseReason> {
        let mut hello = self.hello(known);
        hello.server_user.clone_from(&opened.pool.common.user);
        let room = plan::room(config, &known.database, &known.user);
        let registered = self.gateway.shared.registry.enter(hello, room)?;
        let timeouts = self.gateway.timeouts(opened, &known.user);
        registered.entry.set_timeouts(self.gateway.shared.registry.share(timeouts));
        Ok(registered)
    }

    /// How long it may wait for a server now.
    fn patience(&self, entry: &Entry) -> Option<(Instant, CloseReason)> {
        let login = self.gateway.config().listen.client_login_timeout;
        login_patience(&entry.timeouts.get(), login)
    }

    async fn take_server(
        &mut self,
        opened: &Opened,
        start: &Start,
        registered: &Registered,
        out: &mut Vec<u8>,
    ) -> Result<Lease, CloseReason> {
        let patience = self.patience(&registered.entry);
        let Some(stream) = &mut self.stream else { return Err(CloseReason::ClientLost) };
        let newcomer = opening::Newcomer { stream, input: &mut self.input, out };
        opening::take_server(opened, start, registered, newcomer, patience).await
    }

    /// Makes the client's session: its pool, its settings, its place in the registry, and in
    /// session pooling its server.
    async fn admit_client(&mut self, mut known: Known) -> Result<Admitted, CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        let opened = gateway
            .pool(&known.database, &known.user)
            .ok_or_else(|| CloseReason::NoSuchDatabase(known.database.clone()))?;
        let config = gateway.config();
        let start = opening::start(&known.startup, known.replication, &config)?;
        let settings = Arc::clone(&start.settings);
        let registered = self.register(&known, &opened, &config)?;
        let entry = &registered.entry;
        startup::authenticated(&mut known.out);
        let (reported, lease) = if opened.pool.common.mode == PoolMode::Session {
            let taking = self.take_server(&opened, &start, &registered, &mut known.out);
            let lease = Box::pin(taking).await?;
            (Arc::clone(&lease.connection.reported), Some(lease))
        } else {
            let patience = self.patience(entry);
            let stream = self.stream.as_mut().ok_or(CloseReason::ClientLost)?;
            let gone = client_io::client_gone(stream, &mut self.input);
            (opening::reported(&opened, &settings, entry, patience, gone).await?, None)
        };
        opened.service.tried().await;
        let notice = &config.listen.login_notify_message;
        startup::welcome(&mut known.out, &reported, &entry.identity(), notice);
        opened.pool.common.counters.login.one();
        // Either may have happened before it was registered, and then nobody has told it.
        if stop::refuses(&gateway, self.arrival.as_ref()) {
            return Err(CloseReason::ShuttingDown);
        }
        if !gateway.is_current(&opened) {
            return Err(CloseReason::Reconfigured);
        }
        log_connection(&config, entry);
        let session = Session::new(Arc::clone(&opened.pool.common), settings);
        let guest = opened.pool.enter();
        let (stream, input) = self.take_stream()?;
        let mut task = client_io::Task::new(client_io::Beginning {
            stream,
            input,
            out: known.out,
            session,
            pool: opened.pool,
            entry: Arc::clone(&registered.entry),
            service: opened.service,
            shared: Arc::clone(&gateway.shared),
        });
        if let Some(lease) = lease {
            task.take_lease(lease);
        }
        Ok(Admitted::Client(Box::new(Client { task, registered, guest })))
    }

    fn take_stream(&mut self) -> Result<(Stream, BytesMut), CloseReason> {
        let stream = self.stream.take().ok_or(CloseReason::ClientLost)?;
        Ok((stream, std::mem::take(&mut self.input)))
    }
}
