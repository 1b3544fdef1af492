//! The program: arguments, settings, logging, run, exit code.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use forebay::admin::cache_show;
use forebay::config::{self, CacheMode, Config, Exit, Loaded};
use forebay::gateway::{self, Gateway, Stage};
use forebay::log::{self, Log};
use forebay::net::listen::{ListenOptions, Listener, Permissions, listen_tcp, listen_unix};
use forebay::process::{self, Notice, PidFile};
use forebay::running::Read;
use forebay::{cancel, console, http, listener, reload, stop, warm_up};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let read: Read<'_> = &|path| std::fs::read_to_string(path);
    let begin =
        |config: &Config| gateway::check(config.clone(), read).map_err(|error| error.to_string());
    let loaded = config::load(std::env::args_os(), read, &begin);
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
    let log = match log::start(&loaded.config) {
        Ok(log) => log,
        Err(error) => return fail(format!("forebay: cannot open the log file: {error}")),
    };
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
    let code = runtime.block_on(serve(loaded.config, log));
    runtime.shutdown_background();
    code
}

async fn serve(config: Config, log: Log) -> ExitCode {
    let gateway = match Gateway::new(config) {
        Ok(gateway) => Arc::new(gateway),
        Err(error) => return fail(format!("forebay: {error}")),
    };
    let config = gateway.config();
    let pidfile = config.admin.pidfile.as_deref().map(|path| {
        PidFile::write(path).map_err(|error| format!("pidfile {}: {error}", path.display()))
    });
    let _pidfile = match pidfile.transpose() {
        Ok(pidfile) => pidfile,
        Err(error) => return fail(format!("forebay: {error}")),
    };
    gateway.on_reload(Box::new(move |config| log.apply(config)));
    // Before anybody can be let in, whom a signal would end with the process.
    if let Err(error) = listen_to_signals(&gateway) {
        return fail(format!("forebay: cannot listen to signals: {error}"));
    }
    let http = match listen_for_http(&config).await {
        Ok(http) => http,
        Err(error) => return fail(format!("forebay: {error}")),
    };
    let listening = match listen(&config).await {
        Ok(listening) => listening,
        Err(error) => return fail(format!("forebay: {error}")),
    };
    greet(&gateway, &listening);
    for http in http {
        tracing::info!("page and metrics: http://{http}/");
        tokio::spawn(http::io::accept(http, Arc::clone(&gateway)));
    }
    for (listener, console) in listening {
        tokio::spawn(listener::accept(listener, Arc::clone(&gateway), console));
    }
    tokio::spawn(listener::upkeep(Arc::clone(&gateway)));
    tokio::spawn(cancel::listen(Arc::clone(&gateway)));
    tokio::spawn(warm_up::keep_warm(Arc::clone(&gateway)));
    process::notify(&Notice::Ready);
    stop::over(&gateway).await;
    warm_up::remember(&gateway).await;
    stop::leave_groups(&gateway).await;
    tracing::info!("shut down");
    ExitCode::SUCCESS
}

/// Every socket to listen on, and whether it is for the console alone.
async fn listen(config: &Config) -> Result<Vec<(Listener, bool)>, String> {
    let clients = config.listen_addresses().map(|address| (address, false));
    let console = config.admin.address.iter().map(|address| (address.clone(), true));
    let options = options(config);
    let (mut listening, mut taken) = (Vec::new(), BTreeSet::new());
    for (address, console) in clients.chain(console) {
        let listeners = listen_tcp(&address.host, address.port, options, &mut taken).await;
        let listeners =
            listeners.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        listening.extend(listeners.into_iter().map(|listener| (listener, console)));
    }
    if let Some(directory) = &config.listen.unix_socket_dir {
        let permissions = Permissions {
            mode: config.listen.unix_socket_mode.0,
            group: config.listen.unix_socket_group.clone(),
        };
        let listener =
            listen_unix(directory, config.listen.listen_port, &permissions, options.backlog);
        let listener = listener.map_err(|error| {
            format!("cannot listen on a Unix socket in {}: {error}", directory.display())
        })?;
        listening.push((listener, false));
    }
    Ok(listening)
}

fn options(config: &Config) -> ListenOptions {
    ListenOptions { backlog: config.listen.listen_backlog, reuse_port: config.listen.so_reuseport }
}

/// The HTTP port, if there is to be one: at each of its addresses.
async fn listen_for_http(config: &Config) -> Result<Vec<Listener>, String> {
    let Some(address) = &config.admin.http_listen else { return Ok(Vec::new()) };
    let (options, mut taken) = (options(config), BTreeSet::new());
    let listeners = listen_tcp(&address.host, address.port, options, &mut taken).await;
    listeners.map_err(|error| format!("cannot listen on {address} for HTTP: {error}"))
}

/// The lines by which an operator sees what was started.
fn greet(gateway: &Gateway, listening: &[(Listener, bool)]) {
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
    if let Some(missing) = gateway.cache.redis.as_ref().and_then(|redis| redis.exposure()) {
        tracing::warn!(
            missing,
            "redis is on another machine: others may delete there, hold up, and see how much there is"
        );
    }
    if config.cache.mode != CacheMode::Off {
        tracing::info!("writes that bypass Forebay are seen within {max_age}");
    }
    for (listener, console) in listening {
        if *console
            && let Listener::Tcp(socket) = listener
            && let Ok(address) = socket.local_addr()
        {
            let users = config.admin.admin_users.first().map(String::as_str);
            let url_user = config.credentials.as_ref().map(|credentials| credentials.user.as_str());
            let user = users.or(url_user).unwrap_or("<admin user>");
            let (host, port) = (address.ip(), address.port());
            tracing::info!("console: psql -h {host} -p {port} -U {user} forebay");
        } else {
            tracing::info!("listening on {listener}");
        }
    }
}

/// As PgBouncer: HUP reloads; TERM waits for clients, INT for servers, the second of them for
/// nobody; QUIT at once; USR1 pauses, USR2 resumes.
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
        tracing::info!("got SIGHUP, re-reading config");
        // Its outcome is in the log already, and nobody else asked.
        let reload = || reload::reload(gateway, &|path| std::fs::read_to_string(path));
        // It may empty the cache, which may take long.
        let _logged = tokio::task::block_in_place(reload);
    })?;
    on(SignalKind::terminate(), |gateway| {
        tracing::info!("got SIGTERM{}", what_next(gateway, "waiting for all clients disconnect"));
        stop::signalled(gateway, Stage::WaitForClients);
    })?;
    on(SignalKind::interrupt(), |gateway| {
        let waits = "waiting for all servers connections to be released";
        tracing::info!("got SIGINT{}", what_next(gateway, waits));
        stop::signalled(gateway, Stage::WaitForServers);
    })?;
    on(SignalKind::quit(), |gateway| {
        tracing::info!("got SIGQUIT, fast exit");
        stop::begin(gateway, Stage::Now);
    })?;
    on(SignalKind::user_defined1(), |gateway| console::operate::pause_signalled(gateway))?;
    on(SignalKind::user_defined2(), |gateway| console::operate::resume_signalled(gateway))
}

fn what_next(gateway: &Gateway, waits: &str) -> String {
    if stop::has_begun(gateway) {
        " while shutting down, fast exit".to_owned()
    } else {
        format!(", shutting down, {waits}")
    }
}
