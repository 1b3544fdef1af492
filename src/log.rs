//! The log: where its lines go, how they look, what a reload changes about them.
//!
//! Invariant: an event is one line, whatever its fields hold: names that nobody has proven, what
//! applications call themselves, messages of PostgreSQL. No caller has to think of it.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::admin::table;
use crate::config::{Config, LogFormat, LogLevel};

/// What a reload can change.
pub struct Log {
    set_level: Box<dyn Fn(LogLevel) + Send + Sync>,
    file: Option<Arc<LogFile>>,
}

/// Starts the log of this process, once.
pub fn start(config: &Config) -> io::Result<Log> {
    let filter = EnvFilter::new(config.log.level.name());
    let path = config.log.logfile.as_deref();
    let file = path.map(LogFile::open).transpose()?.map(Arc::new);
    let writer = match &file {
        Some(file) => {
            let file = Arc::clone(file);
            BoxMakeWriter::new(move || file.current())
        }
        None => BoxMakeWriter::new(io::stderr),
    };
    let terminal = file.is_none() && io::stderr().is_terminal();
    // What cannot be written is lost. To say so where it cannot be said ends whoever logged.
    let log = tracing_subscriber::fmt().with_writer(writer).with_ansi(terminal);
    let log = log.log_internal_errors(false);
    let set_level = match config.log.format {
        LogFormat::Text => {
            let log = log.fmt_fields(Fields).with_target(false);
            let log = log.with_env_filter(filter).with_filter_reloading();
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
        LogFormat::PgBouncer => {
            let format = PgBouncerLines { pid: std::process::id() };
            let log = log.event_format(format).with_env_filter(filter).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            set_level(move |filter| handle.reload(filter))
        }
    };
    Ok(Log { set_level, file })
}

fn set_level(
    reload: impl Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync + 'static,
) -> Box<dyn Fn(LogLevel) + Send + Sync> {
    Box::new(move |level| {
        if let Err(error) = reload(EnvFilter::new(level.name())) {
            tracing::error!(%error, "cannot change the level of the log");
        }
    })
}

impl Log {
    /// After a reload: the level, and the file again, as those who rotate it expect.
    pub fn apply(&self, config: &Config) {
        (self.set_level)(config.log.level);
        if let Some(file) = &self.file
            && let Err(error) = file.open_again()
        {
            tracing::error!(%error, "cannot open the log file again, the old one is kept");
        }
    }
}

struct LogFile {
    path: PathBuf,
    /// Guards the handle; held only to clone or replace it.
    file: RwLock<Arc<File>>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: RwLock::new(Arc::new(append(path)?)) })
    }

    fn open_again(&self) -> io::Result<()> {
        let file = Arc::new(append(&self.path)?);
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    fn current(&self) -> Arc<File> {
        Arc::clone(&self.file.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The value without a character that a terminal obeys or that ends a line for whoever reads it:
/// `\n` and `\u{1b}` in their place.
struct Plain<'a>(&'a dyn fmt::Debug);

impl fmt::Debug for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{:?}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|letter| {
            if is_obeyed(letter) {
                write!(self.0, "{}", letter.escape_default())
            } else {
                self.0.write_char(letter)
            }
        })
    }
}

/// Control characters, Unicode's ends of lines and paragraphs, and those that turn the direction of
/// what is shown.
fn is_obeyed(letter: char) -> bool {
    let is_mark = matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    letter.is_control() || is_mark
}

/// The message and fields of a line of text, as ever but for what is not plain in them.
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = PlainVisitor(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct PlainVisitor<'a>(DefaultVisitor<'a>);

impl Visit for PlainVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.record_debug(field, &Plain(value));
    }
}

/// `2026-07-10 22:19:13 UTC [pid] LOG C-0x1: db/user@address: message field=value`.
struct PgBouncerLines {
    pid: u32,
}

impl<S, N> FormatEvent<S, N> for PgBouncerLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "LOG",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "NOISE",
        };
        write!(writer, "{} [{}] {level} ", moment(SystemTime::now()), self.pid)?;
        line.write(&mut writer)?;
        writeln!(writer)
    }
}

/// To the millisecond: `2026-07-10 22:19:13.042 UTC`.
fn moment(now: SystemTime) -> String {
    let seconds = table::time(now);
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (date, zone) = seconds.rsplit_once(' ').unwrap_or((&seconds, "UTC"));
    format!("{date}.{:03} {zone}", since.subsec_millis())
}

/// The fields of one event, those that PgBouncer puts in front apart from the rest.
#[derive(Default)]
struct Line {
    client: Option<String>,
    server: Option<String>,
    database: String,
    user: String,
    address: String,
    message: String,
    rest: String,
}

impl Line {
    fn put(&mut self, name: &str, value: String) {
        match name {
            "message" => self.message = value,
            "client_id" => self.client = Some(value),
            "server_id" => self.server = Some(value),
            "database" => self.database = value,
            "user" => self.user = value,
            "address" => self.address = value,
            // Writing to a text cannot fail.
            name => drop(write!(self.rest, " {name}={value}")),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let side = match (&self.client, &self.server) {
            (_, Some(id)) => Some(('S', id)),
            (Some(id), None) => Some(('C', id)),
            (None, None) => None,
        };
        if let Some((letter, id)) = side {
            let id: u64 = id.parse().unwrap_or(0);
            write!(writer, "{letter}-{id:#x}: ")?;
        } else if !self.address.is_empty() {
            write!(writer, "C-0x0: ")?;
        }
        if side.is_some() || !self.address.is_empty() {
            let or_none = |text: &str| if text.is_empty() { "(nodb)" } else { text }.to_owned();
            let user = if self.user.is_empty() { "(nouser)" } else { &self.user };
            write!(writer, "{}/{user}@{} ", or_none(&self.database), self.address)?;
        } else if !self.database.is_empty() {
            write!(writer, "{}: ", self.database)?;
        }
        write!(writer, "{}{}", self.message, self.rest)
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{:?}", Plain(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), format!("{:?}", Plain(&format_args!("{value}"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_line_or_moves_a_terminal_is_spelt_out() {
        let plain = |text: &str| format!("{:?}", Plain(&format_args!("{text}")));
        assert_eq!(plain("a\r\nb\tc\0"), r"a\r\nb\tc\u{0}");
        assert_eq!(plain("\u{1b}[2J\u{7f}\u{9b}1m"), r"\u{1b}[2J\u{7f}\u{9b}1m");
        assert_eq!(plain("a\u{2028}b\u{202e}c\u{2066}d"), r"a\u{2028}b\u{202e}c\u{2066}d");
        assert_eq!(plain(r#"Zoë's "\n" €"#), r#"Zoë's "\n" €"#);
    }
}
