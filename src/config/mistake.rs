//! What is wrong with a configuration: where, and what was expected. Mistakes are collected, never
//! thrown, so that one run names them all.

use std::fmt;

/// Where something was written. Ordered as mistakes are told: by file and line, then the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of a file; lines count from 1.
    Line { file: String, line: usize },
    /// A file as a whole.
    File(String),
    /// An option of the command line, spelled as typed: `--listen`.
    Option(&'static str),
    /// The `postgres://` URL, wherever it came from.
    Url,
    /// Nowhere: something is missing.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}: "),
            Self::File(file) => write!(f, "{file}: "),
            Self::Option(option) => write!(f, "{option}: "),
            Self::Url => f.write_str("server URL: "),
            Self::Nowhere => Ok(()),
        }
    }
}

/// One mistake. `text` says what was expected and what was found, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub place: Place,
    pub text: String,
}

impl Mistake {
    pub(super) fn new(place: Place, text: impl Into<String>) -> Self {
        Self { place, text: text.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.place, self.text)
    }
}

/// The candidate a person most likely meant by `word`, if any is close enough to be of help.
pub(super) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Nobody types a name this long by mistake, and the distance costs the product of lengths.
    const WORD_BYTES_MAX: usize = 64;
    if word.is_empty() || word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let contained = word.len() >= 4 && candidate.contains(word.as_str());
            let distance = if contained { 1 } else { distance(&word, candidate) };
            (distance <= word.len().div_ceil(3).min(3)).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean x?)`, or nothing.
pub(super) fn suggestion(closest: Option<&str>) -> String {
    closest.map_or_else(String::new, |closest| format!(" (did you mean {closest}?)"))
}

/// Levenshtein's distance in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, left_byte) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (cell, right_byte) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(left_byte != right_byte);
            diagonal = *cell;
            before = replaced.min(before + 1).min(*cell + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_insertions_deletions_and_replacements() {
        assert_eq!(distance("max_age", "max_age"), 0);
        assert_eq!(distance("maxage", "max_age"), 1);
        assert_eq!(distance("max_agee", "max_age"), 1);
        assert_eq!(distance("mox_uge", "max_age"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_close_words_are_suggested() {
        assert_eq!(closest("pool_mod", ["pool_mode", "pins"]), Some("pool_mode"));
        assert_eq!(closest("Pool_Mode", ["pool_mode", "pins"]), Some("pool_mode"));
        assert_eq!(closest("pool_size", ["default_pool_size"]), Some("default_pool_size"));
        assert_eq!(closest("banana", ["pool_mode", "pins"]), None);
        assert_eq!(closest("", ["pool_mode"]), None);
    }
}
