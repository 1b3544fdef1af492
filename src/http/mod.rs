//! The HTTP port: whether the program lives and is ready, metrics, a page, and the tables behind it.
//!
//! Invariant: it only looks. What is shown comes from the picture that the console prints, so they
//! agree; `io.rs` alone knows the HTTP library and the sockets.

pub mod exposition;
pub mod families;
pub mod groups;
pub mod ready;
pub mod scrape;
pub mod tables;
pub mod overview;
pub mod page;
pub mod request;
pub mod reply;
pub mod io;
