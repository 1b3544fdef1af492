//! RELOAD and SIGHUP: the same arguments and files once more, applied as far as that goes
//! without a restart. Reads files.

use crate::config;
use crate::gateway::Gateway;

/// Sentences for whoever asked; or every mistake, a line each, and nothing has changed.
pub fn reload(gateway: &Gateway) -> Result<Vec<String>, String> {
    let result = apply(gateway);
    match &result {
        Ok(notices) => {
            for notice in notices {
                tracing::info!("{notice}");
            }
            tracing::info!("settings reloaded");
        }
        Err(mistakes) => tracing::error!(%mistakes, "reload failed, settings stay as they were"),
    }
    result
}

fn apply(gateway: &Gateway) -> Result<Vec<String>, String> {
    let loaded = config::load(std::env::args_os(), &|path| std::fs::read_to_string(path))
        .map_err(|exit| exit.text.trim_end().to_owned())?;
    let old = gateway.config();
    let mut notices = loaded.notices;
    for name in old.changed_without_restart(&loaded.config) {
        notices.push(format!("{name}: changed, but needs a restart"));
    }
    gateway.apply(old.reloaded(&loaded.config)).map_err(|error| error.to_string())?;
    Ok(notices)
}
