//! The text of `search_path`, and of other settings that are lists of names.

/// Longer names are cut.
const NAMEDATALEN: usize = 64;

/// The schemas of a `search_path` setting as SHOW prints it, `$user` replaced; `None` if the
/// text is no such list.
pub fn parse_search_path(value: &str, user: &str) -> Option<Vec<String>> {
    let names = split_list(value)?;
    Some(
        names
            .into_iter()
            .map(|name| if name == "$user" { user.to_owned() } else { name })
            .collect(),
    )
}

/// A list of possibly quoted names, as settings hold it: unquoted ones are folded to lower case.
pub fn split_list(value: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = value.trim();
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let name;
        (name, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            split_quoted(quoted)?
        } else {
            let (name, rest) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            let name = name.trim_end();
            if name.is_empty() || name.contains(['"', ' ', '\t', '\n']) {
                return None;
            }
            // PostgreSQL folds other letters only where a character is a byte.
            (name.to_ascii_lowercase(), rest)
        };
        if name.len() >= NAMEDATALEN {
            // It would be cut.
            return None;
        }
        names.push(name);
        rest = rest.trim_start();
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix(',')?.trim_start();
    }
}

/// The name up to its closing quote, and what follows.
fn split_quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}
