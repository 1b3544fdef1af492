//! The command line, and `load`: arguments to a configuration, or to what to print and exit with.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::settings::by_name;
use super::value::{Raw, Style};
use super::{
    Base, Config, DatabaseEntry, ListenAddress, Loaded, Mistake, Place, SETTINGS, Written, check,
    file, ini, reference, url,
};

// Not doc comments: those need backticks, which would be printed.
const SOURCE_HELP: &str =
    "postgres://user:password@host/database, a .toml file, or a pgbouncer.ini";
const CACHE_HELP: &str =
    "on, off, dry_run: count what would have been hits, serve none; or verify: compare them too";

/// Pool and cache for PostgreSQL. Applications connect to Forebay as if it were the database.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "options of a command line, not a state")]
#[command(name = "Forebay", bin_name = "forebay", version, disable_help_subcommand = true)]
struct Arguments {
    #[arg(value_name = "URL or FILE", help = SOURCE_HELP)]
    source: Option<OsString>,
    /// Forebay's own settings in TOML, beside the URL or pgbouncer.ini
    #[arg(value_name = "TOML")]
    beside: Option<PathBuf>,
    /// The same, spelled as an option
    #[arg(long, value_name = "TOML")]
    config: Vec<PathBuf>,

    /// Where clients connect, such as 127.0.0.1:6432
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where the console is, such as 127.0.0.1:6433
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_listen: Option<String>,
    /// Where the page and the metrics are, such as 127.0.0.1:9127
    #[arg(long, value_name = "ADDRESS:PORT")]
    http_listen: Option<String>,
    /// transaction, session or statement
    #[arg(long, value_name = "MODE")]
    pool_mode: Option<String>,
    /// Servers for each database and user
    #[arg(long, value_name = "N")]
    pool_size: Option<String>,
    #[arg(long, value_name = "MODE", conflicts_with = "no_cache", help = CACHE_HELP)]
    cache: Option<String>,
    /// The same as --cache off
    #[arg(long)]
    no_cache: bool,
    /// Memory for answers, such as 256MB
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<String>,
    /// No answer is served when older, such as 60s
    #[arg(long, value_name = "DURATION")]
    max_age: Option<String>,
    /// A second tier for answers
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Certificate for clients that use TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text, json or pgbouncer
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Threads; 0 is one a core
    #[arg(long, value_name = "N")]
    workers: Option<String>,

    /// Log errors alone
    #[arg(short, long)]
    quiet: bool,
    /// Log more; twice, everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// PgBouncer's options that a service manager does better
    #[arg(short = 'd', long, hide = true)]
    daemon: bool,
    #[arg(short = 'R', long, hide = true)]
    reboot: bool,
    #[arg(short = 'u', long, hide = true)]
    user: Option<String>,

    /// Print the settings that would be used, and exit
    #[arg(long)]
    check: bool,
    /// Print every setting with its default, as a TOML file, and exit
    #[arg(long)]
    defaults: bool,
}

/// The program ends before it begins: `text` goes to standard output if `code` is 0, else to
/// standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: u8,
    pub text: String,
}

impl Exit {
    /// Arguments that cannot be understood, as is the custom of command lines.
    const USAGE: u8 = 2;
    const MISTAKES: u8 = 1;

    fn success(text: String) -> Self {
        Self { code: 0, text }
    }

    fn mistakes(mistakes: &[Mistake]) -> Self {
        let mut text = String::new();
        for mistake in mistakes {
            text.extend([mistake.to_string().as_str(), "\n"]);
        }
        Self { code: Self::MISTAKES, text }
    }
}

/// From the program's arguments, its own name first. `read` reads a file; relative paths are
/// relative to the working directory, as in PgBouncer. A reload calls it again, with the same
/// arguments. `begin` is asked under `--check` whether it could be begun with this, and tells what an
/// operator should hear.
pub fn load(
    args: impl Iterator<Item = OsString>,
    read: &dyn Fn(&Path) -> io::Result<String>,
    begin: &dyn Fn(&Config) -> Result<Vec<String>, String>,
) -> Result<Loaded, Exit> {
    let arguments = Arguments::try_parse_from(args).map_err(|error| Exit {
        code: if error.use_stderr() { Exit::USAGE } else { 0 },
        text: error.render().to_string(),
    })?;
    if arguments.defaults {
        return Err(Exit::success(reference()));
    }
    let left =
        [(arguments.daemon, "-d"), (arguments.reboot, "-R"), (arguments.user.is_some(), "-u")];
    if let Some((_, option)) = left.iter().find(|(given, _)| *given) {
        let text = format!(
            "{option}: not supported: leave that to the service manager, such as systemd; for a \
             restart without a gap start a second Forebay with so_reuseport\n"
        );
        return Err(Exit { code: Exit::USAGE, text });
    }
    let (base, files) = arguments.files(read);
    let mut loaded = check::check(base, files, arguments.options(), read)
        .map_err(|mistakes| Exit::mistakes(&mistakes))?;
    if !arguments.check {
        return Ok(loaded);
    }
    let refused = |why| Exit { code: Exit::MISTAKES, text: format!("{why}\n") };
    loaded.notices.extend(begin(&loaded.config).map_err(refused)?);
    Err(Exit::success(summary(&loaded)))
}

impl Arguments {
    fn source_url(&self) -> Option<&str> {
        self.source.as_ref()?.to_str().filter(|source| url::is_url(source))
    }

    /// What the files say, and whose defaults hold.
    fn files(&self, read: &dyn Fn(&Path) -> io::Result<String>) -> (Base, Written) {
        let mut base = Base::Forebay;
        let mut written = Written::default();
        if let Some(source) = &self.source
            && self.source_url().is_none()
        {
            let path = Path::new(source);
            // Whatever is not TOML is PgBouncer's: its files have all kinds of names.
            if path.extension().is_none_or(|extension| extension != "toml") {
                base = Base::PgBouncer;
            }
            written.append(read_file(path, base, read));
        }
        for path in self.beside.iter().chain(&self.config) {
            written.append(read_file(path, Base::Forebay, read));
        }
        (base, written)
    }

    /// What the options say.
    fn options(&self) -> Written {
        let mut written = Written::default();
        if let Some(url) = self.source_url() {
            set(&mut written, "server.url", Place::Url, url);
        }
        let no_cache = self.no_cache.then(|| "off".to_owned());
        let level = match self.verbose {
            0 if self.quiet => Some("error".to_owned()),
            0 => self.log_level.clone(),
            1 => Some("debug".to_owned()),
            _ => Some("trace".to_owned()),
        };
        let options = [
            ("--admin-listen", "admin.address", &self.admin_listen),
            ("--http-listen", "admin.http_listen", &self.http_listen),
            ("--pool-mode", "pool.pool_mode", &self.pool_mode),
            ("--pool-size", "pool.default_pool_size", &self.pool_size),
            ("--cache", "cache.mode", &self.cache),
            ("--no-cache", "cache.mode", &no_cache),
            ("--cache-size", "cache.size", &self.cache_size),
            ("--max-age", "cache.max_age", &self.max_age),
            ("--redis", "redis.url", &self.redis),
            ("--tls-cert", "tls.client_tls_cert_file", &self.tls_cert),
            ("--tls-key", "tls.client_tls_key_file", &self.tls_key),
            ("--log-level", "log.level", &level),
            ("--log-format", "log.format", &self.log_format),
            ("--workers", "listen.workers", &self.workers),
        ];
        for (option, name, value) in options {
            if let Some(value) = value {
                set(&mut written, name, Place::Option(option), value);
            }
        }
        if let Some(listen) = &self.listen {
            let place = Place::Option("--listen");
            match ListenAddress::parse(listen) {
                Some(ListenAddress { host, port }) => {
                    set(&mut written, "listen.listen_addr", place.clone(), &host);
                    set(&mut written, "listen.listen_port", place, &port.to_string());
                }
                None => written.mistake(
                    place,
                    format!(
                        "expected an address and port such as \"127.0.0.1:6432\", found \"{}\"",
                        listen.escape_debug()
                    ),
                ),
            }
        }
        written
    }
}

fn set(written: &mut Written, name: &str, place: Place, value: &str) {
    let setting = name.split_once('.').and_then(|(section, key)| by_name(section, key));
    if let Some(setting) = setting {
        written.set(setting, place, Raw::Untyped(value.to_owned()));
    }
}

fn read_file(path: &Path, base: Base, read: &dyn Fn(&Path) -> io::Result<String>) -> Written {
    let name = path.display().to_string();
    match (read(path), base) {
        (Ok(text), Base::Forebay) => file::read(&name, &text),
        (Ok(text), Base::PgBouncer) => ini::read(&name, &text, read),
        (Err(error), _) => {
            let mut written = Written::default();
            written.mistake(Place::File(name), format!("cannot read: {error}"));
            written
        }
    }
}

/// For `--check`: notices, databases, every setting that has an effect.
fn summary(loaded: &Loaded) -> String {
    let Loaded { config, notices } = loaded;
    let defaults = Config::defaults(config.base);
    let mut text = String::new();
    for notice in notices {
        text.extend(["notice: ", notice, "\n"]);
    }
    for entry in &config.databases {
        text.extend(["database ", &entry.name, " = ", &whereabouts(entry), "\n"]);
    }
    for setting in SETTINGS {
        let value = (setting.show)(config, Style::Own);
        let default = (setting.show)(&defaults, Style::Own);
        text.extend([setting.name, " = ", &value]);
        if value != default {
            text.extend([" (default: ", &default, ")"]);
        }
        text.push('\n');
    }
    text.push_str("the configuration is good\n");
    text
}

fn whereabouts(entry: &DatabaseEntry) -> String {
    let host = &entry.host;
    let user = entry.user.as_ref().map_or_else(String::new, |user| format!(" user {user}"));
    let dbname = entry.dbname.as_ref().map_or_else(String::new, |name| format!(" dbname {name}"));
    format!("{host} port {}{dbname}{user}", entry.port)
}
