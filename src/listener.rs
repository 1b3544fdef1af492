//! Accepting connections: clients, cancel requests and consoles, from their first byte on; and
//! the life of the whole process: pools made when first asked for, signals, shutdown.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::net::{TcpListener, TcpStream};

use crate::auth::{ClientAuth, Method, Secret, Userlist};
use crate::cache::Cache;
use crate::client::close::CloseReason;
use crate::client::registry::{Hello, Registered, Registry};
use crate::client::session::Session;
use crate::client::startup::{self, Proof};
use crate::client::{Shared, io as client_io};
use crate::config::{AuthType, Config, Host};
use crate::metrics::CacheCounters;
use crate::net::{Address, Stream, TlsClientConfig, TlsServerConfig, accept_tls};
use crate::pool::database::Database;
use crate::pool::io::{Pool, Times};
use crate::pool::{ClientLimits, Common, PinPolicy, PoolMode, statements};
use crate::server::io::Target;
use crate::server::settings::{Settings, replay};
use crate::service::Service;
use crate::wire::backend::Severity;
use crate::wire::frame::{self, HEADER_BYTES};
use crate::wire::startup::{Packet, Startup, StartupError};
use crate::wire::{backend, frontend, sqlstate};
