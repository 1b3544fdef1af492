//! Where Redis is: at an address, or where its sentinels say.

use std::fmt;

/// Sentinels in one URL, at most.
pub const SENTINELS_MAX: usize = 16;

const SENTINEL_PORT: &str = "26379";

/// `redis.url`, told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// In words that the client library reads, or refuses.
    One { url: String },
    /// `redis+sentinel://[user:password@]host[:port][,host[:port]…]/[db]?master=name`, or with
    /// `rediss+sentinel` for TLS to all of them. The URLs are those of the sentinels, with user,
    /// password and database, which are Redis's own.
    Sentinels { urls: Vec<String>, master: String },
}

/// What is wrong with the URL of sentinels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    Host,
    TooManyHosts,
    Master,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("expected the hosts of sentinels, with commas between them"),
            Self::TooManyHosts => write!(f, "expected no more than {SENTINELS_MAX} sentinels"),
            Self::Master => f.write_str("expected ?master= and the name that sentinels know"),
        }
    }
}

impl Address {
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let Some((scheme @ ("redis" | "rediss"), rest)) = url.split_once("+sentinel://") else {
            return Ok(Self::One { url: url.to_owned() });
        };
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let hosts: Vec<&str> = hosts.split(',').collect();
        if hosts.len() > SENTINELS_MAX {
            return Err(AddressError::TooManyHosts);
        }
        let urls = hosts.into_iter().map(|host| {
            let host = with_port(host).ok_or(AddressError::Host)?;
            Ok(format!("{scheme}://{user}{host}{tail}"))
        });
        Ok(Self::Sentinels { urls: urls.collect::<Result<_, _>>()?, master: master(tail)? })
    }
}

fn with_port(host: &str) -> Option<String> {
    let name = host.rsplit_once(']').map_or(host, |(_, port)| port);
    match name.split_once(':') {
        _ if host.is_empty() || host.starts_with(':') => None,
        Some((_, port)) => port.parse::<u16>().is_ok().then(|| host.to_owned()),
        None => Some(format!("{host}:{SENTINEL_PORT}")),
    }
}

/// Sentinels take names of these letters only, so nothing has to be decoded.
fn master(tail: &str) -> Result<String, AddressError> {
    let tail = tail.split('#').next().unwrap_or_default();
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    let name = query.split('&').find_map(|pair| pair.strip_prefix("master="));
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    name.filter(|name| !name.is_empty() && name.chars().all(is_name))
        .map(str::to_owned)
        .ok_or(AddressError::Master)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_sentinels_become_one_for_each() {
        let check = |url: &str, expected: &[&str]| match Address::parse(url) {
            Ok(Address::Sentinels { urls, master }) => {
                assert_eq!(urls, expected, "{url}");
                assert_eq!(master, "my-redis.1", "{url}");
            }
            other => panic!("{url}: {other:?}"),
        };
        check("redis+sentinel://one?master=my-redis.1", &["redis://one:26379?master=my-redis.1"]);
        check(
            "rediss+sentinel://user:p%40ss@one:1,two,[::1],[::2]:3/4?protocol=resp3&master=my-redis.1#insecure",
            &[
                "rediss://user:p%40ss@one:1/4?protocol=resp3&master=my-redis.1#insecure",
                "rediss://user:p%40ss@two:26379/4?protocol=resp3&master=my-redis.1#insecure",
                "rediss://user:p%40ss@[::1]:26379/4?protocol=resp3&master=my-redis.1#insecure",
                "rediss://user:p%40ss@[::2]:3/4?protocol=resp3&master=my-redis.1#insecure",
            ],
        );
    }

    #[test]
    fn other_urls_are_left_as_they_are() {
        for url in ["redis://host", "unix:///run/redis", "http+sentinel://one", "junk", ""] {
            assert_eq!(Address::parse(url), Ok(Address::One { url: url.to_owned() }));
        }
    }

    #[test]
    fn urls_that_name_no_sentinel_or_no_master_are_mistakes() {
        let check = |url: &str, expected| assert_eq!(Address::parse(url), Err(expected), "{url}");
        check("redis+sentinel://?master=m", AddressError::Host);
        check("redis+sentinel://one,?master=m", AddressError::Host);
        check("redis+sentinel://:26379?master=m", AddressError::Host);
        check("redis+sentinel://one:x?master=m", AddressError::Host);
        check("redis+sentinel://one:99999?master=m", AddressError::Host);
        check("redis+sentinel://one", AddressError::Master);
        check("redis+sentinel://one/0?master=", AddressError::Master);
        check("redis+sentinel://one/0?master=a%20b", AddressError::Master);
        check("redis+sentinel://one/0#?master=m", AddressError::Master);
        let many = format!("redis+sentinel://{}one?master=m", "one,".repeat(SENTINELS_MAX));
        check(&many, AddressError::TooManyHosts);
    }
}
