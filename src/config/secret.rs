//! Texts that must not be shown.

use std::fmt;

use super::value::{Range, Raw, Style, Value, plain_or_quoted};

/// A text that never shows itself: not in `Debug`, not on the console, not in an error.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; for the wire only.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"****\"" })
    }
}

impl Value for SecretText {
    const SECRET: bool = true;

    fn read(raw: &Raw, _range: Range) -> Result<Self, String> {
        raw.as_text()
            .map(Self::new)
            .ok_or_else(|| format!("expected a text, found {}", raw.found_kind()))
    }

    fn show(&self, style: Style) -> String {
        plain_or_quoted(if self.0.is_empty() { "" } else { "****" }, style)
    }
}
