//! The entries of `[peers]`: the other Forebays (or PgBouncers) that share our address.

use super::url::parse_host;
use super::value::Value;
use super::{Host, Mistake, Range, WrittenEntry};

/// Keys of an entry, in TOML and in `pgbouncer.ini`.
pub(super) const PEER_KEYS: &[&str] = &["host", "pool_size", "port"];

/// Ids fit where PgBouncer puts them in a cancel key.
pub(super) const PEER_ID_MAX: u16 = 16_383;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: u16,
    pub host: Host,
    pub port: u16,
    /// Instead of `default_pool_size`; bounds the cancel requests on their way to it.
    pub pool_size: Option<u32>,
}

/// By id; a later entry of the same id takes the place of an earlier one.
pub(super) fn read(written: &[WrittenEntry]) -> (Vec<Peer>, Vec<Mistake>) {
    let (mut peers, mut mistakes): (Vec<Peer>, Vec<Mistake>) = Default::default();
    for entry in written {
        let name = entry.name.escape_debug();
        match entry.name.parse() {
            Ok(id) if (1..=PEER_ID_MAX).contains(&id) => {
                let peer = peer(id, entry, &mut mistakes);
                peers.retain(|other| other.id != id);
                peers.push(peer);
            }
            Ok(_) | Err(_) => {
                let text = format!("peers.{name}: expected a peer_id from 1 to {PEER_ID_MAX}");
                mistakes.push(Mistake::new(entry.place.clone(), text));
            }
        }
    }
    peers.sort_by_key(|peer| peer.id);
    (peers, mistakes)
}

fn peer(id: u16, written: &WrittenEntry, mistakes: &mut Vec<Mistake>) -> Peer {
    let mut peer = Peer { id, host: Host::Name(String::new()), port: 6432, pool_size: None };
    for key in &written.keys {
        let raw = &key.raw;
        let result = match key.key.as_str() {
            "host" => String::read(raw, Range::Any)
                .and_then(|text| parse_host(&text).map_err(str::to_owned))
                .map(|host| peer.host = host),
            "port" => u16::read(raw, Range::Between(1, 65_535)).map(|port| peer.port = port),
            "pool_size" => {
                u32::read(raw, Range::Between(1, 100_000)).map(|size| peer.pool_size = Some(size))
            }
            _ => Err("unknown key".to_owned()),
        };
        if let Err(text) = result {
            let text = format!("peers.{id}.{}: {text}", key.key.escape_debug());
            mistakes.push(Mistake::new(key.place.clone(), text));
        }
    }
    if !written.keys.iter().any(|key| key.key == "host") {
        let text = format!("peers.{id}: expected a host");
        mistakes.push(Mistake::new(written.place.clone(), text));
    }
    peer
}
