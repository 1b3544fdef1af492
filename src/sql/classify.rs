//! Placeholder.
use super::catalog::Catalog;
use super::verdict::*;
pub struct Context<'a> { pub catalog: Option<&'a Catalog>, pub search_path: &'a [String], pub parameter_types: &'a [u32] }
pub fn classify(sql: &str, _context: &Context<'_>) -> Verdict {
    let low = sql.to_lowercase();
    let sel = low.starts_with("select") && low.contains("from pgbench_");
    Verdict { controls: match low.as_str() { x if x.starts_with("begin") => vec![Control::Begin{isolation:None}], x if x.starts_with("commit")||x.starts_with("end") => vec![Control::Commit{chain:false}], x if x.starts_with("rollback") => vec![Control::Rollback{chain:false}], _ => vec![] },
      write: if low.starts_with("select")||low.starts_with("begin")||low.starts_with("commit")||low.starts_with("end")||low.starts_with("rollback") { Write::None } else { Write::Opaque{commits_inside:false,taints:false} },
      read: if sel { Read::Cacheable([TableId(1)].into()) } else { Read::Bypass(BypassReason::NotARead) }, statements: 1, tag: "X", exact_text: false }
}
pub fn parse_search_path(value: &str, _user: &str) -> Option<Vec<String>> { Some(value.split(',').map(|x| x.trim().to_owned()).collect()) }
