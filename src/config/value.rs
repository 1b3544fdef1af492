//! Values as people write them to the types the program uses, and back: numbers, texts, lists,
//! paths. Every reader says what it expected; none repeats a secret.

use std::path::PathBuf;

/// A value as written, before anyone knows what it should be.
///
/// No `Debug`: it may hold a password.
#[derive(Clone, PartialEq)]
pub(super) enum Raw {
    /// From a place without types: `pgbouncer.ini`, the command line, a URL.
    Untyped(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<String>),
    /// Something no setting takes: its name for people.
    Other(&'static str),
}

impl Raw {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Untyped(text) | Self::Text(text) => Some(text),
            Self::Integer(_) | Self::Float(_) | Self::Bool(_) | Self::List(_) | Self::Other(_) => {
                None
            }
        }
    }

    fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Untyped(text) => text.parse().ok(),
            Self::Integer(number) => Some(*number),
            Self::Text(_) | Self::Float(_) | Self::Bool(_) | Self::List(_) | Self::Other(_) => None,
        }
    }

    pub(super) fn is_empty_text(&self) -> bool {
        self.as_text() == Some("")
    }

    /// The value for an error text.
    pub(super) fn found(&self) -> String {
        match self {
            Self::Untyped(text) | Self::Text(text) => format!("\"{}\"", text.escape_debug()),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(kind) => (*kind).to_owned(),
        }
    }

    /// Its kind alone, where the value may be secret.
    pub(super) fn found_kind(&self) -> &'static str {
        match self {
            Self::Untyped(_) | Self::Text(_) => "a text",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

/// What a setting admits, in the unit of its type: milliseconds for durations, bytes for sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    Any,
    /// Both ends included.
    Between(u64, u64),
    /// As `Between`; 0 means off and is admitted too.
    OffOrBetween(u64, u64),
}

impl Range {
    pub(super) fn admits(self, value: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Between(low, high) => (low..=high).contains(&value),
            Self::OffOrBetween(low, high) => value == 0 || (low..=high).contains(&value),
        }
    }

    /// `from 1 to 10`, with the ends as `show` writes them; nothing for `Any`.
    pub(super) fn words(self, show: impl Fn(u64) -> String) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Between(low, high) => Some(format!("from {} to {}", show(low), show(high))),
            Self::OffOrBetween(low, high) => {
                Some(format!("0 or from {} to {}", show(low), show(high)))
            }
        }
    }
}

/// For whom a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `SHOW CONFIG` in PgBouncer's manner: seconds without a unit, 1 and 0.
    PgBouncer,
    /// `SHOW CONFIG` for Forebay's own settings: `60s`, `256MB`, `on`.
    Own,
    /// A TOML file.
    Toml,
}

/// A type a setting can have.
pub(super) trait Value: Sized + PartialEq {
    /// What is written of it must not be shown.
    const SECRET: bool = false;
    /// The error is the whole sentence: what was expected, what was found.
    fn read(raw: &Raw, range: Range) -> Result<Self, String>;
    /// Hides secrets, in any style.
    fn show(&self, style: Style) -> String;
    /// The range as people write it.
    fn range_words(range: Range) -> Option<String> {
        range.words(|number| number.to_string())
    }
}

/// The error of a reader.
pub(super) fn expected<T: Value>(what: &str, raw: &Raw, range: Range) -> String {
    let range = T::range_words(range).map_or_else(String::new, |words| format!(" {words}"));
    format!("expected {what}{range}, found {}", raw.found())
}

/// A text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted.extend(format!("\\u{:04X}", u32::from(control)).chars());
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

pub(super) fn plain_or_quoted(text: &str, style: Style) -> String {
    match style {
        Style::Toml => quoted(text),
        Style::PgBouncer | Style::Own => text.to_owned(),
    }
}

macro_rules! whole_number {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn read(raw: &Raw, range: Range) -> Result<Self, String> {
                raw.as_integer()
                    .and_then(|number| u64::try_from(number).ok())
                    .filter(|number| range.admits(*number))
                    .and_then(|number| Self::try_from(number).ok())
                    .ok_or_else(|| expected::<Self>("a whole number", raw, range))
            }

            fn show(&self, _style: Style) -> String {
                self.to_string()
            }
        }
    )* };
}

whole_number!(u16, u32);

impl Value for bool {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let value = match raw {
            Raw::Bool(value) => Some(*value),
            Raw::Untyped(text) => match text.to_ascii_lowercase().as_str() {
                "1" | "on" | "yes" | "true" | "t" | "y" => Some(true),
                "0" | "off" | "no" | "false" | "f" | "n" => Some(false),
                _ => None,
            },
            Raw::Text(_) | Raw::Integer(_) | Raw::Float(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        value.ok_or_else(|| expected::<Self>("true or false", raw, range))
    }

    fn show(&self, style: Style) -> String {
        match (style, self) {
            (Style::PgBouncer, true) => "1",
            (Style::PgBouncer, false) => "0",
            (Style::Own | Style::Toml, true) => "true",
            (Style::Own | Style::Toml, false) => "false",
        }
        .to_owned()
    }
}

impl Value for String {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        raw.as_text().map(str::to_owned).ok_or_else(|| expected::<Self>("a text", raw, range))
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(self, style)
    }
}

impl Value for Vec<String> {
    /// A list, or a text separated by commas.
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        match raw {
            Raw::List(items) => Ok(items.clone()),
            Raw::Untyped(text) | Raw::Text(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()),
            Raw::Integer(_) | Raw::Float(_) | Raw::Bool(_) | Raw::Other(_) => {
                Err(expected::<Self>("a list of texts", raw, range))
            }
        }
    }

    fn show(&self, style: Style) -> String {
        match style {
            Style::PgBouncer | Style::Own => self.join(","),
            Style::Toml => {
                let items: Self = self.iter().map(|item| quoted(item)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

impl Value for Option<PathBuf> {
    fn read(raw: &Raw, range: Range) -> Result<Self, String> {
        let text = raw.as_text().ok_or_else(|| expected::<Self>("a path", raw, range))?;
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }

    fn show(&self, style: Style) -> String {
        let path = self.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        plain_or_quoted(&path, style)
    }
}
