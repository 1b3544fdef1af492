//! The scripts of a group as twins have them, which are wrong on purpose.

use std::borrow::Cow;

use crate::twin::{self, Twin};

use super::script::Script;

/// What Redis is given.
pub fn text(script: Script) -> Cow<'static, str> {
    if twin::is(Twin::NoIncarnationCheck) {
        return Cow::Owned(without_incarnation(script.text()));
    }
    if twin::is(Twin::MarksClearedAfterCrash) {
        return Cow::Owned(without_bump(script.text()));
    }
    Cow::Borrowed(script.text())
}

/// Any K is the one that was joined, whichever process formed it.
fn without_incarnation(text: &str) -> String {
    text.replace("get('act') == act and not is_over()", "get('act') and not is_over()")
        .replace("get('run') ~= run or is_over()", "is_over()")
}

/// What a member that is gone had marked is as it was before.
fn without_bump(text: &str) -> String {
    text.replace("generation + 1, seq, left", "generation, seq, left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_differ_from_what_they_are_twins_of() {
        let check = |script: Script, twin: fn(&str) -> String, removed: &[&str]| {
            let (whole, left) = (script.text(), twin(script.text()));
            for removed in removed {
                assert!(whole.contains(removed), "{script:?} has {removed}");
                assert!(!left.contains(removed), "its twin has {removed}");
            }
        };
        check(Script::Begin, without_incarnation, &["get('act') == act"]);
        check(Script::Join, without_incarnation, &["get('act') == act", "~= run"]);
        check(Script::Renew, without_bump, &["generation + 1, seq, left"]);
    }

    #[test]
    fn who_is_no_twin_has_the_scripts_themselves() {
        for script in Script::ALL {
            assert_eq!(text(script), script.text());
        }
    }
}
