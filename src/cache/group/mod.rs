//! Several Forebays in front of one PostgreSQL that agree through one Redis, in which all they
//! agree on of one database is one key: K.

pub mod slot;
pub mod process;
pub mod script;
pub mod broken;
pub mod member;
pub mod mirror;
pub mod picture;
pub mod address;
pub mod life;
pub mod link;
pub mod settings;
pub mod cancel_word;
pub mod talk;
pub mod check;
pub mod state;
pub mod shared;
pub mod rounds;
pub mod versions;
pub mod explored;
