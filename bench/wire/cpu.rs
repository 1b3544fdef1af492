//! CPU time of processes, read from the kernel.

use std::time::Duration;
use std::{fs, io, process};

/// A process whose time is told, under a name.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    name: String,
    pid: u32,
}

impl Watched {
    /// `NAME=PID`.
    pub(crate) fn parse(words: &str) -> Result<Self, String> {
        let parts = words.split_once('=').and_then(|(name, pid)| Some((name, pid.parse().ok()?)));
        let (name, pid) = parts.ok_or("expected NAME=PID")?;
        Ok(Self { name: name.to_owned(), pid })
    }

    pub(crate) fn this() -> Self {
        Self { name: "load".to_owned(), pid: process::id() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Of all its threads. The ticks of `/proc/PID/stat` would be too coarse.
    pub(crate) fn time(&self) -> io::Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let told = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = told.split(' ').next().unwrap_or_default();
            nanos += first.parse::<u64>().map_err(io::Error::other)?;
        }
        Ok(Duration::from_nanos(nanos))
    }
}
