//! Settings whose value is one of a few words.

use std::fmt;

use super::value::{Range, Raw, Style, Value, expected, plain_or_quoted};

/// Declares an enum whose values are words in the configuration.
macro_rules! words {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident { $( $(#[doc = $variant_doc:literal])* $variant:ident = $word:literal ),+ $(,)? }
    )*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[doc = $variant_doc])* $variant ),+ }

        impl $name {
            const WORDS: &[&str] = &[$($word),+];

            /// The word for it in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }

            fn from_word(word: &str) -> Option<Self> {
                // As PgBouncer, in letters of either case.
                [$(Self::$variant),+].into_iter().find(|one| word.eq_ignore_ascii_case(one.name()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Value for $name {
            fn read(raw: &Raw, range: Range) -> Result<Self, String> {
                raw.as_text()
                    .and_then(Self::from_word)
                    .ok_or_else(|| expected::<Self>(&one_of(Self::WORDS), raw, range))
            }

            fn show(&self, style: Style) -> String {
                plain_or_quoted(self.name(), style)
            }
        }
    )* };
}

/// `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

words! {
    /// When a server goes back to its pool.
    PoolMode {
        /// When the client disconnects.
        Session = "session",
        /// When the transaction ends.
        Transaction = "transaction",
        /// When the statement ends; there are no transaction blocks.
        Statement = "statement",
    }

    /// How clients prove who they are.
    AuthType {
        /// Not at all, but the user must be known.
        Trust = "trust",
        /// Not at all, and whatever user is named the entry's own user is used.
        Any = "any",
        /// Password in the clear.
        Plain = "plain",
        /// MD5, or SCRAM for users whose stored secret is SCRAM's.
        Md5 = "md5",
        ScramSha256 = "scram-sha-256",
        /// A certificate of their name.
        Cert = "cert",
        /// A process of this machine of their name.
        Peer = "peer",
        /// As the rules of `auth_hba_file` say.
        Hba = "hba",
    }

    /// What to do about session state that cannot be replayed on another server.
    PinPolicy {
        /// Keep the server with the client until the state is gone.
        Pin = "pin",
        /// Nothing, as PgBouncer does: the state may be lost, or leak to another client.
        Ignore = "ignore",
        /// Refuse the statement that would make it.
        Refuse = "refuse",
    }

    /// Whether the cache answers.
    CacheMode {
        Off = "off",
        On = "on",
        /// Count what would have been hits, serve none.
        DryRun = "dry_run",
        /// The same, and PostgreSQL's answers are compared with what would have been served.
        Verify = "verify",
    }

    /// Who is asked before a hit, in a group.
    GroupMode {
        /// Redis, each time; hits that arrive together ask together. One that is alone asks nobody.
        Strict = "strict",
        /// Nobody: writers wait until every member has heard of them.
        StrictLocal = "strict-local",
    }

    /// What becomes of writes that no text tells the tables of.
    OpaqueWrites {
        /// PostgreSQL is asked, before the commit is sent.
        Ask = "ask",
        /// They count as writing the whole database.
        Database = "database",
        /// PostgreSQL is asked before every commit, also where the text told, and what was not
        /// foreseen is reported.
        Audit = "audit",
    }

    /// Who decides what names alone do not.
    Analysis {
        /// PostgreSQL is asked.
        Auto = "auto",
        /// Nobody: it is not kept.
        Local = "local",
        /// The same.
        Off = "off",
    }

    LogLevel {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }

    LogFormat {
        Text = "text",
        Json = "json",
        PgBouncer = "pgbouncer",
    }

    /// Which of several hosts a new server is connected to.
    LoadBalance {
        /// Each in turn.
        RoundRobin = "round-robin",
        /// The first that can be reached.
        Disable = "disable",
    }

    /// As libpq's and PgBouncer's `sslmode`.
    SslMode {
        Disable = "disable",
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
}

impl Value for Option<AuthType> {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        match raw.as_text().map(str::to_ascii_lowercase).as_deref() {
            Some("auto") => Ok(None),
            // They need another program to ask.
            Some(foreign @ ("pam" | "ldap")) => Err(format!(
                "{foreign} is not supported; auth_query asks PostgreSQL for users and secrets"
            )),
            text => text.and_then(AuthType::from_word).map(Some).ok_or_else(|| {
                let words = format!("auto, {}", one_of(AuthType::WORDS));
                expected::<Self>(&words, raw, range)
            }),
        }
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(self.map_or("auto", AuthType::name), style)
    }
}
