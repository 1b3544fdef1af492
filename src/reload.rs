//! RELOAD and SIGHUP: the same arguments and files once more, applied as far as that goes
//! without a restart.

use std::io;
use std::path::Path;

use crate::config;
use crate::gateway::Gateway;
use crate::process::{self, Notice};

/// Reads a file.
pub type Read<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// Sentences for whoever asked; or every mistake, a line each, and nothing has changed.
pub fn reload(gateway: &Gateway, read: Read<'_>) -> Result<Vec<String>, String> {
    process::notify(&Notice::Reloading);
    let result = apply(gateway, read);
    process::notify(&Notice::Ready);
    match &result {
        Ok(notices) => {
            for notice in notices {
                tracing::info!("{notice}");
            }
            tracing::info!("settings reloaded");
        }
        Err(mistakes) => {
            for mistake in mistakes.lines() {
                tracing::error!("{mistake}");
            }
            tracing::error!("reload failed, settings stay as they were");
        }
    }
    result
}

/// Sets one setting until the next reload, by the name that `SHOW CONFIG` has for it. Gives
/// sentences for whoever asked.
pub fn set(
    gateway: &Gateway,
    key: &str,
    value: &str,
    read: Read<'_>,
) -> Result<Vec<String>, String> {
    let config = config::set(&gateway.config(), key, value, read)?;
    let notices = gateway.apply_one(config).map_err(|error| error.to_string())?;
    for notice in &notices {
        tracing::warn!("{notice}");
    }
    Ok(notices)
}

fn apply(gateway: &Gateway, read: Read<'_>) -> Result<Vec<String>, String> {
    let loaded = config::load(std::env::args_os(), read, &|_| Ok(Vec::new()))
        .map_err(|exit| exit.text.trim_end().to_owned())?;
    let old = gateway.config();
    let mut notices = loaded.notices;
    for name in old.changed_without_restart(&loaded.config) {
        notices.push(format!("{name}: changed, but needs a restart"));
    }
    let more = gateway.apply(old.reloaded(&loaded.config)).map_err(|error| error.to_string())?;
    notices.extend(more);
    Ok(notices)
}
