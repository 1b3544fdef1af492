//! Which Redis this is, and what is worth knowing of it: what `INFO` says, read.

use std::fmt;

use super::slot::{parse_hex, write_hex};

/// One life of one Redis as a primary: K was formed in it, or is another's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Another one after each start.
    pub run_id: [u8; 20],
    /// Another one after each promotion.
    pub replication_id: [u8; 20],
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.run_id, f)?;
        f.write_str(":")?;
        write_hex(&self.replication_id, f)
    }
}

/// What an operator should know of this Redis. None of it makes an answer wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// When its memory is full it drops K as soon as others, or sooner.
    Evicts { policy: String },
    /// Older than what operators are told to have: rights to channels are of 6.2.
    Old { version: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evicts { policy } => {
                write!(
                    f,
                    "maxmemory-policy {policy} may drop what the group agrees on, and with it the hits of \
                     about two leases: take an lfu one, or maxmemory 0"
                )
            }
            Self::Old { version } => write!(f, "Redis {version} is older than 6.2"),
        }
    }
}

/// What `INFO` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub process: Process,
    pub version: String,
    pub warnings: Vec<Warning>,
}

/// Why a Redis is not used for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A replica, or something that does not say what it is.
    NotPrimary { role: String },
    /// `INFO` has no such field, or not in this form: a proxy perhaps, that hides the process.
    Unknown { field: &'static str },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrimary { role } => write!(f, "not a primary, its role is \"{role}\""),
            Self::Unknown { field } => write!(f, "INFO does not tell {field}"),
        }
    }
}

impl Info {
    /// From the sections `server`, `replication` and `memory`, in any order.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let field = |name: &'static str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim_end).ok_or(Unfit::Unknown { field: name })
        };
        let id = |name| {
            let unknown = Unfit::Unknown { field: name };
            field(name).and_then(|word| parse_hex(word.as_bytes()).ok_or(unknown))
        };
        let role = field("role")?;
        if role != "master" {
            return Err(Unfit::NotPrimary { role: role.to_owned() });
        }
        let version = field("redis_version")?.to_owned();
        let mut warnings = Vec::new();
        let policy = field("maxmemory_policy").unwrap_or("noeviction");
        // K is used all the time, which lfu alone counts: whole memories may pass within the second that
        // is the least age for lru.
        let spares = policy == "noeviction" || policy.ends_with("-lfu");
        if !spares && field("maxmemory").is_ok_and(|bytes| bytes != "0") {
            warnings.push(Warning::Evicts { policy: policy.to_owned() });
        }
        let mut words = version.split('.').map(str::parse::<u32>);
        if let (Some(Ok(major)), minor) = (words.next(), words.next())
            && (major, minor.and_then(Result::ok).unwrap_or(0)) < (6, 2)
        {
            warnings.push(Warning::Old { version: version.clone() });
        }
        let process = Process { run_id: id("run_id")?, replication_id: id("master_replid")? };
        Ok(Self { process, version, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(changes: &[(&str, &str)]) -> Result<Info, Unfit> {
        let mut text = "# Server\r\nredis_version:7.0.15\r\n\
            run_id:000102030405060708090a0b0c0d0e0f10111213\r\n# Replication\r\nrole:master\r\n\
            master_replid:ff0102030405060708090a0b0c0d0e0f10111213\r\n\
            # Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
            .to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        Info::parse(&text)
    }

    #[test]
    fn a_primary_is_known_by_its_two_ids() {
        let info = info(&[]).unwrap();
        assert_eq!(
            info.process.to_string(),
            "000102030405060708090a0b0c0d0e0f10111213:ff0102030405060708090a0b0c0d0e0f10111213"
        );
        assert_eq!((info.version.as_str(), info.warnings), ("7.0.15", Vec::new()));
    }

    #[test]
    fn what_is_no_primary_or_does_not_say_who_it_is_is_unfit() {
        let check = |from, to, expected| assert_eq!(info(&[(from, to)]).unwrap_err(), expected);
        check("role:master", "role:slave", Unfit::NotPrimary { role: "slave".to_owned() });
        check("role:", "r:", Unfit::Unknown { field: "role" });
        check("run_id:00", "run_id:", Unfit::Unknown { field: "run_id" });
        check("master_replid", "replid", Unfit::Unknown { field: "master_replid" });
        check("redis_version", "version", Unfit::Unknown { field: "redis_version" });
    }

    #[test]
    fn only_a_bounded_memory_evicts_and_one_by_use_spares_what_is_in_use() {
        let check = |policy: &str, bytes: &str, warned: bool| {
            let policy_is = format!("maxmemory_policy:{policy}");
            let memory_is = format!("maxmemory:{bytes}");
            let shown = info(&[
                ("maxmemory_policy:noeviction", policy_is.as_str()),
                ("maxmemory:0", memory_is.as_str()),
            ]);
            let expected = warned.then(|| Warning::Evicts { policy: policy.to_owned() });
            assert_eq!(shown.unwrap().warnings, Vec::from_iter(expected), "{policy} {bytes}");
        };
        check("allkeys-lru", "0", false);
        check("noeviction", "1", false);
        for policy in ["allkeys-lfu", "volatile-lfu"] {
            check(policy, "1", false);
        }
        for policy in
            ["allkeys-lru", "volatile-lru", "allkeys-random", "volatile-random", "volatile-ttl"]
        {
            check(policy, "1", true);
        }
    }

    #[test]
    fn an_old_version_is_warned_of() {
        let check = |version: &str, old: bool| {
            let expected = old.then(|| Warning::Old { version: version.to_owned() });
            let warnings = info(&[("7.0.15", version)]).unwrap().warnings;
            assert_eq!(warnings, Vec::from_iter(expected), "{version}");
        };
        check("5.0.14", true);
        check("6.0.16", true);
        check("6.2.0", false);
        check("7", false);
        check("10.0.0", false);
    }
}
