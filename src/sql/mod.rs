//! What a statement reads, writes and changes: pure functions from text and catalogue to a
//! `Verdict`. Knows nothing of caches, sockets or clients.
//!
//! Two questions are never mixed up: may it *write* (decides what is invalidated) and may it be
//! *cached* (decides whether an answer is kept). In doubt the first is answered yes, the second no.

pub mod lex;
pub mod hint;
pub mod verdict;
pub mod functions;
pub mod search_path;
pub mod parse;
pub mod tree;
pub mod catalog;
pub mod rules;
pub mod names;
pub mod reading;
pub mod resolve;
pub mod analysis;
pub mod plan;
pub mod closure;
pub mod footprint;
pub mod schema;
pub mod classify;
