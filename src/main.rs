//! The program: arguments, settings, logging, run, exit code.

use std::io::{IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;

use forebay::admin::cache_show;
use forebay::config::{self, CacheMode, Config, Exit, ListenAddress, Loaded, LogFormat, LogLevel};
use forebay::gateway::{Gateway, Stage};
use forebay::{listener, reload, stop};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let loaded = config::load(std::env::args_os(), &|path| std::fs::read_to_string(path));
    match loaded {
        Ok(loaded) => run(loaded),
        Err(exit) => say(&exit),
    }
}

fn say(exit: &Exit) -> ExitCode {
    let text = exit.text.as_bytes();
    // Whoever closed our output does not want to read it.
    let _unread = if exit.code == 0 {
        std::io::stdout().write_all(text)
    } else {
        std::io::stderr().write_all(text)
    };
    ExitCode::from(exit.code)
}

fn fail(text: String) -> ExitCode {
    say(&Exit { code: 1, text: text + "\n" })
}

fn run(loaded: Loaded) -> ExitCode {
    let set_level = start_log(&loaded.config);
    for notice in &loaded.notices {
        tracing::info!("{notice}");
    }
    let workers = loaded.config.listen.workers;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all();
    if workers > 0 {
        builder.worker_threads(usize::try_from(workers).unwrap_or(1));
    }
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format!("forebay: cannot start threads: {error}")),
    };
    let code = runtime.block_on(serve(loaded.config, set_level));
    runtime.shutdown_background();
    code
}

async fn serve(config: Config, set_level: SetLevel) -> ExitCode {
    let gateway = match Gateway::new(config) {
        Ok(gateway) => Arc::new(gateway),
        Err(error) => return fail(format!("forebay: {error}")),
    };
    let config = gateway.config();
    let mut listening = Vec::new();
    for address in config.listen_addresses() {
        match bind(&address).await {
            Ok(listener) => listening.push((listener, false)),
            Err(error) => return fail(format!("forebay: cannot listen on {address}: {error}")),
        }
    }
    if let Some(address) = &config.admin.address {
        match bind(address).await {
            Ok(listener) => listening.push((listener, true)),
            Err(error) => return fail(format!("forebay: cannot listen on {address}: {error}")),
        }
    }
    greet(&gateway, &listening);
    for (listener, console) in listening {
        tokio::spawn(listener::accept(listener, Arc::clone(&gateway), console));
    }
    tokio::spawn(listener::upkeep(Arc::clone(&gateway)));
    gateway.on_reload(Box::new(move |config| set_level(config.log.level)));
    if let Err(error) = listen_to_signals(&gateway) {
        return fail(format!("forebay: cannot listen to signals: {error}"));
    }
    stop::over(&gateway).await;
    tracing::info!("shut down");
    ExitCode::SUCCESS
}

/// `*` is every address: both families where the system has them.
async fn bind(address: &ListenAddress) -> std::io::Result<TcpListener> {
    let port = address.port;
    if address.host != "*" {
        return TcpListener::bind((address.host.as_str(), port)).await;
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_no_such_family) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

/// The lines by which an operator sees what was started.
fn greet(gateway: &Gateway, listening: &[(TcpListener, bool)]) {
    let config = gateway.config();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pool_mode = %config.pool.pool_mode,
        databases = config.databases.len(),
        any_database = config.databases.iter().any(|entry| entry.name == "*"),
        "starting Forebay"
    );
    let max_age = cache_show::seconds(config.cache.max_age);
    tracing::info!(
        mode = %config.cache.mode,
        size_bytes = config.cache.size.bytes(),
        %max_age,
        redis = %gateway.cache.redis_state(),
        "cache"
    );
    if config.cache.mode != CacheMode::Off {
        tracing::info!("writes that bypass Forebay are seen within {max_age}");
    }
    for (listener, console) in listening {
        // A socket that listens has an address.
        let Ok(address) = listener.local_addr() else { continue };
        if *console {
            let users = config.admin.admin_users.first().map(String::as_str);
            let url_user = config.credentials.as_ref().map(|credentials| credentials.user.as_str());
            let user = users.or(url_user).unwrap_or("<admin user>");
            let (host, port) = (address.ip(), address.port());
            tracing::info!(%address, "console: psql -h {host} -p {port} -U {user} forebay");
        } else {
            tracing::info!(%address, "listening for clients");
        }
    }
}

/// As PgBouncer: HUP reloads; TERM waits for clients, INT for servers, the second of them for
/// nobody; QUIT at once.
fn listen_to_signals(gateway: &Arc<Gateway>) -> std::io::Result<()> {
    let on = |kind: SignalKind, act: fn(&Arc<Gateway>)| {
        let mut signals = signal(kind)?;
        let gateway = Arc::clone(gateway);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                act(&gateway);
            }
        });
        std::io::Result::Ok(())
    };
    on(SignalKind::hangup(), |gateway| {
        tracing::info!("got SIGHUP, reloading");
        // Its outcome is in the log already, and nobody else asked.
        let _logged = reload::reload(gateway, &|path| std::fs::read_to_string(path));
    })?;
    on(SignalKind::terminate(), |gateway| {
        tracing::info!("got SIGTERM");
        stop::signalled(gateway, Stage::WaitForClients);
    })?;
    on(SignalKind::interrupt(), |gateway| {
        tracing::info!("got SIGINT");
        stop::signalled(gateway, Stage::WaitForServers);
    })?;
    on(SignalKind::quit(), |gateway| {
        tracing::info!("got SIGQUIT");
        stop::begin(gateway, Stage::Now);
    })?;
    // PgBouncer pauses and resumes; without a handler they would end the program.
    on(SignalKind::user_defined1(), |_| tracing::warn!("got SIGUSR1, ignoring: no PAUSE yet"))?;
    on(SignalKind::user_defined2(), |_| tracing::warn!("got SIGUSR2, ignoring: no RESUME yet"))
}

type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// Starts the log; gives what changes its level later.
fn start_log(config: &Config) -> SetLevel {
    let filter = EnvFilter::new(config.log.level.name());
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log.format {
        LogFormat::Text => {
            let log = log.with_target(false).with_env_filter(filter).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            set_level(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let log = log.json().with_env_filter(filter).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            set_level(move |filter| handle.reload(filter))
        }
    }
}

fn set_level(
    reload: impl Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync + 'static,
) -> SetLevel {
    Box::new(move |level| {
        if let Err(error) = reload(EnvFilter::new(level.name())) {
            tracing::error!(%error, "cannot change the level of the log");
        }
    })
}
