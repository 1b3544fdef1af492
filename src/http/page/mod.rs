//! The page, in one piece: its styles and its script are in it, and it asks for nothing from
//! elsewhere. The browser is told the hashes of both, and runs nothing else.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page with what a browser has to be told of it.
pub struct Page {
    pub html: String,
    pub policy: String,
}

pub static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    html: include_str!("page.html").replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT),
    policy: format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    ),
});

fn hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
        let (_, rest) = text.split_once(start).unwrap();
        rest.split_once(end).unwrap().0
    }

    #[test]
    fn the_policy_knows_the_style_and_the_script_of_the_page_and_no_others() {
        let Page { html, policy } = &*PAGE;
        assert_eq!((html.matches("<style").count(), html.matches("<script").count()), (1, 1));
        let style = hash(between(html, "<style>", "</style>"));
        let script = hash(between(html, "<script>", "</script>"));
        assert!(policy.contains(&format!("style-src {style};")), "{policy}");
        assert!(policy.contains(&format!("script-src {script};")), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn the_page_names_no_other_place_and_makes_no_markup_of_texts() {
        for forbidden in ["http://", "https://", "//cdn", "@import", "url("] {
            let html = PAGE.html.replace("http://www.w3.org/2000/svg", "");
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!SCRIPT.contains(forbidden), "{forbidden}");
        }
        assert!(!PAGE.html.contains(" style=") && !PAGE.html.contains(" onclick="));
    }
}
