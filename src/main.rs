//! The program: arguments, settings, logging, run, exit code.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use forebay::config::{self, Config, Exit, Loaded, LogFormat};
use forebay::gateway::Gateway;
use forebay::listener;
use tokio::net::TcpListener;

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
    start_log(&loaded.config);
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
    let code = runtime.block_on(serve(loaded.config));
    runtime.shutdown_background();
    code
}

async fn serve(config: Config) -> ExitCode {
    let gateway = match Gateway::new(config) {
        Ok(gateway) => Arc::new(gateway),
        Err(error) => return fail(format!("forebay: {error}")),
    };
    let mut listening = Vec::new();
    for address in gateway.config.listen_addresses() {
        match TcpListener::bind((address.host.as_str(), address.port)).await {
            Ok(listener) => listening.push((listener, false)),
            Err(error) => return fail(format!("forebay: cannot listen on {address}: {error}")),
        }
    }
    if let Some(address) = &gateway.config.admin.address {
        match TcpListener::bind((address.host.as_str(), address.port)).await {
            Ok(listener) => listening.push((listener, true)),
            Err(error) => return fail(format!("forebay: cannot listen on {address}: {error}")),
        }
    }
    for (listener, console) in listening {
        tokio::spawn(listener::accept(listener, Arc::clone(&gateway), console));
    }
    tokio::spawn(listener::upkeep(Arc::clone(&gateway)));
    stop_signal().await;
    tracing::info!("shutting down");
    ExitCode::SUCCESS
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut interrupt), Ok(mut quit)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::quit()),
    ) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        _ = quit.recv() => {}
    }
}

fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(config.log.level.name());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
