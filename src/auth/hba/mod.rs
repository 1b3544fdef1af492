//! `auth_hba_file`: which method a client has to use, in PgBouncer's dialect of `pg_hba.conf`.
//! The first rule that fits decides.
//!
//! A line that cannot be read is a mistake, not passed over: it may have been the one that rejects.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::ident::{IdentMap, IdentMaps};
use super::tokens::{Token, Tokens, Unclosed};

/// Files of names may name others; one that names itself must end somewhere.
const NAME_FILE_DEPTH_MAX: usize = 8;

/// The rules of one file, in order.
#[derive(Clone, Debug, Default)]
pub struct Hba {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub struct Rule {
    kind: Kind,
    databases: Names,
    users: Names,
    /// `None`: every address.
    addresses: Option<Network>,
    pub method: HbaMethod,
    pub map: Option<Arc<IdentMap>>,
    /// From 1.
    pub line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HbaMethod {
    Trust,
    Reject,
    Md5,
    /// In the clear.
    Password,
    ScramSha256,
    Cert,
    Peer,
}

/// A list of databases or users.
#[derive(Clone, Debug, Default)]
struct Names {
    all: bool,
    same_user: bool,
    replication: bool,
    listed: HashSet<String>,
}

/// An address and how many of its bits count, as numbers of the family's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    base: IpAddr,
    mask: u128,
}

/// Who wants in.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// `None`: over a Unix socket.
    pub address: Option<IpAddr>,
    pub tls: bool,
    /// Physical replication, which is of no database.
    pub replication: bool,
    /// Its names: the console has several.
    pub databases: &'a [&'a str],
    pub user: &'a str,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaError {
    /// From 1.
    pub line: usize,
    pub cause: HbaCause,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaCause {
    Unclosed,
    /// Neither local, host, hostssl nor hostnossl.
    Kind,
    /// No list of databases or users.
    Names,
    /// A kind of name that PgBouncer does not have either: `samerole`, `+group`.
    UnsupportedName(String),
    /// A file of names cannot be read.
    NameFile(String),
    Address,
    Mask,
    /// Needs another program to ask.
    ForeignMethod(String),
    Method,
    Option(String),
    UnknownMap(String),
}

impl fmt::Display for HbaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.cause {
            HbaCause::Unclosed => f.write_str("a double quote is not closed"),
            HbaCause::Kind => f.write_str("expected local, host, hostssl or hostnossl"),
            HbaCause::Names => f.write_str("expected databases, then users, separated by commas"),
            HbaCause::UnsupportedName(name) => write!(f, "{name} is not supported"),
            HbaCause::NameFile(cause) => f.write_str(cause),
            HbaCause::Address => f.write_str("expected all, or an IP address with its bits"),
            HbaCause::Mask => f.write_str("expected a number of bits, or a mask"),
            HbaCause::ForeignMethod(method) => write!(f, "method {method} is not supported"),
            HbaCause::Method => f.write_str(
                "expected a method: trust, reject, md5, scram-sha-256, password, cert or peer",
            ),
            HbaCause::Option(option) => {
                write!(f, "expected map=name or nothing after the method, found {option}")
            }
            HbaCause::UnknownMap(map) => write!(f, "map {map} is not in auth_ident_file"),
        }
    }
}

impl std::error::Error for HbaError {}

impl From<Unclosed> for HbaCause {
    fn from(Unclosed: Unclosed) -> Self {
        Self::Unclosed
    }
}

/// Reads a file.
pub type Read<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

impl Hba {
    /// Reads the text of the file at `path`; all mistakes at once. `read` is for the files of
    /// names it mentions, which are beside it.
    pub fn parse(
        path: &Path,
        text: &str,
        maps: &IdentMaps,
        read: Read<'_>,
    ) -> Result<Self, Vec<HbaError>> {
        let mut hba = Self::default();
        let mut errors = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut parser = Parser { tokens: Tokens::of(line), path: path.into(), read };
            match parser.rule(index + 1, maps) {
                Ok(rule) => hba.rules.extend(rule),
                Err(cause) => errors.push(HbaError { line: index + 1, cause }),
            }
        }
        if errors.is_empty() { Ok(hba) } else { Err(errors) }
    }

    /// The first rule that fits.
    pub fn rule(&self, asking: &Asking<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(asking))
    }

    /// Lines whose address has bits outside its mask, and which therefore fit nobody.
    pub fn lines_that_fit_nobody(&self) -> impl Iterator<Item = usize> {
        let is_empty = |rule: &&Rule| rule.addresses.is_some_and(Network::is_empty);
        self.rules.iter().filter(is_empty).map(|rule| rule.line)
    }
}

impl Rule {
    fn fits(&self, asking: &Asking<'_>) -> bool {
        let connection = match (self.kind, asking.address) {
            (Kind::Local, address) => address.is_none(),
            (Kind::Host | Kind::HostSsl | Kind::HostNoSsl, None) => false,
            (kind, Some(address)) => {
                let tls = match kind {
                    Kind::HostSsl => asking.tls,
                    Kind::HostNoSsl => !asking.tls,
                    Kind::Host | Kind::Local => true,
                };
                tls && self.addresses.is_none_or(|network| network.contains(address))
            }
        };
        let database = if asking.replication {
            self.databases.replication
        } else {
            asking.databases.iter().any(|name| self.databases.fits(name, asking.user))
        };
        let user = || asking.databases.iter().any(|name| self.users.fits(asking.user, name));
        connection && database && user()
    }
}

impl Names {
    /// `other` is the user where this lists databases.
    fn fits(&self, name: &str, other: &str) -> bool {
        self.all || (self.same_user && name == other) || self.listed.contains(name)
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.base.is_ipv4() && number(address) & self.mask == number(self.base)
    }

    fn is_empty(self) -> bool {
        number(self.base) & !self.mask != 0
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    /// The file that the line is in.
    path: PathBuf,
    read: Read<'a>,
}

impl Parser<'_> {
    /// `None`: nothing on the line.
    fn rule(&mut self, line: usize, maps: &IdentMaps) -> Result<Option<Rule>, HbaCause> {
        let kind = match self.tokens.next()? {
            None => return Ok(None),
            Some(Token::Word(word)) => match word.as_str() {
                "local" => Kind::Local,
                "host" => Kind::Host,
                "hostssl" => Kind::HostSsl,
                "hostnossl" => Kind::HostNoSsl,
                _ => return Err(HbaCause::Kind),
            },
            Some(Token::Quoted(_) | Token::Comma) => return Err(HbaCause::Kind),
        };
        let databases = self.names(0)?;
        let users = self.names(0)?;
        let addresses = match kind {
            Kind::Local => None,
            Kind::Host | Kind::HostSsl | Kind::HostNoSsl => self.addresses()?,
        };
        let method = self.method()?;
        let map = self.map(maps)?;
        Ok(Some(Rule { kind, databases, users, addresses, method, map, line }))
    }

    fn names(&mut self, depth: usize) -> Result<Names, HbaCause> {
        let mut names = Names::default();
        loop {
            match self.tokens.next()? {
                Some(Token::Quoted(name)) => {
                    names.listed.insert(name);
                }
                Some(Token::Word(word)) => self.name(word, &mut names, depth)?,
                Some(Token::Comma) | None => return Err(HbaCause::Names),
            }
            if self.tokens.peek()? != Some(Token::Comma) {
                return Ok(names);
            }
            self.tokens.next()?;
        }
    }

    fn name(&self, word: String, names: &mut Names, depth: usize) -> Result<(), HbaCause> {
        match word.as_str() {
            "all" => names.all = true,
            "sameuser" => names.same_user = true,
            "replication" => names.replication = true,
            "samerole" | "samegroup" => return Err(HbaCause::UnsupportedName(word)),
            _ if word.starts_with('+') => return Err(HbaCause::UnsupportedName(word)),
            _ => match word.strip_prefix('@') {
                Some(file) => self.name_file(file, names, depth)?,
                None => {
                    names.listed.insert(word);
                }
            },
        }
        Ok(())
    }

    /// A relative path counts from the directory of the file that names it.
    fn name_file(&self, file: &str, names: &mut Names, depth: usize) -> Result<(), HbaCause> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(file);
        let failed =
            |cause: &dyn fmt::Display| HbaCause::NameFile(format!("{}: {cause}", path.display()));
        if depth >= NAME_FILE_DEPTH_MAX {
            return Err(failed(&"too many files name others"));
        }
        let text = (self.read)(&path).map_err(|error| failed(&error))?;
        for line in text.lines() {
            let mut inner =
                Parser { tokens: Tokens::of(line), path: path.clone(), read: self.read };
            if inner.tokens.peek()?.is_none() {
                continue;
            }
            let more = inner.names(depth + 1)?;
            if inner.tokens.peek()?.is_some() {
                return Err(failed(&"expected names separated by commas"));
            }
            names.all |= more.all;
            names.same_user |= more.same_user;
            names.replication |= more.replication;
            names.listed.extend(more.listed);
        }
        Ok(())
    }

    fn addresses(&mut self) -> Result<Option<Network>, HbaCause> {
        let word = match self.tokens.next()? {
            Some(Token::Word(word)) if word == "all" => return Ok(None),
            Some(Token::Word(word)) => word,
            Some(Token::Quoted(_) | Token::Comma) | None => return Err(HbaCause::Address),
        };
        let parse = |text: &str| IpAddr::from_str(text).ok();
        if let Some((address, bits)) = word.split_once('/') {
            let base = parse(address).ok_or(HbaCause::Address)?;
            let mask = mask_of(base, bits).ok_or(HbaCause::Mask)?;
            return Ok(Some(Network { base, mask }));
        }
        let base = parse(&word).ok_or(HbaCause::Address)?;
        let mask = match self.tokens.next()? {
            Some(Token::Word(mask)) => parse(&mask),
            Some(Token::Quoted(_) | Token::Comma) | None => None,
        };
        let mask = mask.filter(|mask| mask.is_ipv4() == base.is_ipv4()).ok_or(HbaCause::Mask)?;
        Ok(Some(Network { base, mask: number(mask) }))
    }

    fn method(&mut self) -> Result<HbaMethod, HbaCause> {
        let Some(Token::Word(word)) = self.tokens.next()? else {
            return Err(HbaCause::Method);
        };
        match word.as_str() {
            "trust" => Ok(HbaMethod::Trust),
            "reject" => Ok(HbaMethod::Reject),
            "md5" => Ok(HbaMethod::Md5),
            "password" => Ok(HbaMethod::Password),
            "scram-sha-256" => Ok(HbaMethod::ScramSha256),
            "cert" => Ok(HbaMethod::Cert),
            "peer" => Ok(HbaMethod::Peer),
            "ldap" | "pam" => Err(HbaCause::ForeignMethod(word)),
            _ => Err(HbaCause::Method),
        }
    }

    fn map(&mut self, maps: &IdentMaps) -> Result<Option<Arc<IdentMap>>, HbaCause> {
        let map = match self.tokens.next()? {
            None => return Ok(None),
            Some(Token::Word(word)) => {
                let name = word.strip_prefix("map=").ok_or(HbaCause::Option(word.clone()))?;
                maps.get(name).ok_or_else(|| HbaCause::UnknownMap(name.to_owned()))?
            }
            Some(Token::Quoted(option)) => return Err(HbaCause::Option(option)),
            Some(Token::Comma) => return Err(HbaCause::Option(",".to_owned())),
        };
        match self.tokens.next()? {
            None => Ok(Some(Arc::clone(map))),
            Some(Token::Word(more) | Token::Quoted(more)) => Err(HbaCause::Option(more)),
            Some(Token::Comma) => Err(HbaCause::Option(",".to_owned())),
        }
    }
}

/// The first `bits` bits of the address's family.
fn mask_of(base: IpAddr, bits: &str) -> Option<u128> {
    let length: u32 = if base.is_ipv4() { 32 } else { 128 };
    let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits: u32 = bits.parse().ok().filter(|bits| digits && *bits <= length)?;
    let all = u128::MAX.checked_shr(128 - length).unwrap_or(0);
    Some(all & !all.checked_shr(bits).unwrap_or(0))
}

#[cfg(test)]
mod tests;
