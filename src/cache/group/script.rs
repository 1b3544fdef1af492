//! What Redis is asked about K, and what it answers: requests as words, words as replies.
//! What the scripts do stands in `lua/`; here nothing is decided, and nothing is sent.
//!
//! All times are milliseconds of Redis's clock.

use std::fmt;

use super::life::Life;
use super::process::Process;
use super::slot::{Act, Mark, Slot, SlotName, parse_number};

/// Members of one group, at most: instances, not servers. An answer with more is not believed.
pub const MEMBERS_MAX: usize = 1024;

/// Slots in one answer, at most: tables of one database that were written since K was formed.
/// K itself begins anew long before.
pub const SLOTS_MAX: usize = 1 << 16;

/// What is asked. `id` is the number of a member: one for each process's life and database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// Becomes a member until then at first; `act` is the name if K has to be formed. Members live
    /// for a lease. The marks are those of commits in flight.
    Join {
        process: Process,
        life: Life,
        id: u32,
        until: u64,
        act: Act,
        lease: u64,
        marks: Vec<(Mark, Vec<SlotName>)>,
    },
    Renew(Renew),
    /// Announces a commit before it is sent; `joined`: as K has counted this member's last `Join`.
    Begin {
        act: Act,
        id: u32,
        joined: u64,
        mark: Mark,
        slots: Vec<SlotName>,
    },
    /// Who is still to be waited for, for a commit announced at `seq`. `all`: it marked the
    /// catalogue.
    Lag {
        act: Act,
        id: u32,
        seq: u64,
        all: bool,
    },
    /// What has changed; and changes up to this one are known here. A renewal without a lease.
    Hear {
        act: Act,
        id: u32,
        applied: u64,
    },
    /// The outcome of a commit.
    End {
        act: Act,
        mark: Mark,
        committed: bool,
        slots: Vec<SlotName>,
    },
    /// These changed, and nothing announced it.
    Bump {
        act: Act,
        slots: Vec<SlotName>,
    },
    /// Hits no more, and asks nothing either: it stops.
    Leave {
        act: Act,
        id: u32,
    },
    /// Who the members are; the first half of a census.
    Members {
        act: Act,
    },
    /// What K says of these slots, in this order. No script, so it changes nothing.
    Check {
        slots: Vec<SlotName>,
    },
    /// Redis's clock, for those who are not joined.
    Time,
}

/// Stays a member until `until`, after a census that saw `seen`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Renew {
    pub act: Act,
    pub id: u32,
    pub until: u64,
    /// Changes up to this one are known here.
    pub applied: u64,
    /// How long K stays shut after its first good census.
    pub lease: u64,
    /// This member wants to hit without asking, also beside others.
    pub local: bool,
    /// Who PostgreSQL shows.
    pub seen: Vec<u32>,
    /// Members that it does not show, and the `seq` at which they were listed.
    pub gone_seq: u64,
    pub gone: Vec<u32>,
}

/// What Redis answered, and its clock in the script; a check tells no time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub now: Option<u64>,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// K is gone or has another name, or the asker is no member.
    Lost,
    /// The lease asked for is over already.
    Late,
    /// PostgreSQL shows one that is no member. Nothing was renewed.
    Census {
        stranger: u32,
    },
    Joined {
        act: Act,
        open: bool,
        seq: u64,
        /// For so long those may still hit who were members of a PostgreSQL of before.
        outlived: u64,
    },
    /// Another PostgreSQL has taken over from the asker's.
    Passed,
    /// The others have another lease.
    OtherLease {
        lease: u64,
    },
    Renewed(Renewed),
    Begun {
        open: bool,
        seq: u64,
        /// As it was before.
        catalog: Slot,
        waits: Vec<Wait>,
    },
    Lag {
        waits: Vec<Wait>,
    },
    /// What changed after `applied`, up to `seq`.
    Heard {
        seq: u64,
        slots: Vec<(SlotName, Slot)>,
    },
    /// To `End` and `Bump`: what the slots are now.
    Changed {
        slots: Vec<(SlotName, Slot)>,
    },
    Left,
    Members {
        seq: u64,
        ids: Vec<u32>,
    },
    /// `open` is the name of the life in which K may be believed.
    Checked {
        act: Option<Act>,
        open: Option<Act>,
        slots: Vec<Slot>,
    },
    Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    pub open: bool,
    pub seq: u64,
    /// For so many milliseconds from when the request was sent, hits need not ask; 0: not at all.
    pub grant: u64,
    pub members: u64,
    /// What changed after `applied`.
    pub slots: Vec<(SlotName, Slot)>,
}

/// A member that has to have seen a commit announced, and how long that can take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wait {
    pub id: u32,
    pub ms: u64,
}

/// The scripts, in the order of `Script::ALL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    Join,
    Renew,
    Begin,
    Lag,
    Hear,
    End,
    Bump,
    Leave,
    Members,
}

/// What a script is with what they share in front of it.
macro_rules! script {
    ($file:literal) => {
        concat!(include_str!("lua/prelude.lua"), include_str!($file))
    };
}

impl Script {
    pub const ALL: [Self; 9] = [
        Self::Join,
        Self::Renew,
        Self::Begin,
        Self::Lag,
        Self::Hear,
        Self::End,
        Self::Bump,
        Self::Leave,
        Self::Members,
    ];

    /// Tells which commands of the others the user may not run.
    pub const PROBE: &'static str = include_str!("lua/probe.lua");

    pub fn text(self) -> &'static str {
        match self {
            Self::Join => script!("lua/join.lua"),
            Self::Renew => script!("lua/renew.lua"),
            Self::Begin => script!("lua/begin.lua"),
            Self::Lag => script!("lua/lag.lua"),
            Self::Hear => script!("lua/hear.lua"),
            Self::End => script!("lua/end.lua"),
            Self::Bump => script!("lua/bump.lua"),
            Self::Leave => script!("lua/leave.lua"),
            Self::Members => script!("lua/members.lua"),
        }
    }
}

/// A request as Redis takes it: the words after the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Script(Script, Vec<Vec<u8>>),
    /// HMGET of these fields.
    Fields(Vec<Vec<u8>>),
    /// TIME, which has no key.
    Time,
}

impl Request {
    pub fn call(&self) -> Call {
        let mut words = Words::default();
        let script = match self {
            Self::Join { process, life, id, until, act, lease, marks } => {
                words.push(process).push(life.timeline).push(life.started);
                words.push(id).push(until).push(act).push(lease).push(marks.len());
                for (mark, slots) in marks {
                    words.push(mark).push(slots.len()).all(slots);
                }
                Script::Join
            }
            Self::Renew(renew) => {
                words.push(renew.act).push(renew.id).push(renew.until).push(renew.applied);
                words.push(renew.lease).push(u8::from(renew.local));
                words.push(renew.seen.len()).all(&renew.seen);
                words.push(renew.gone_seq).push(renew.gone.len()).all(&renew.gone);
                Script::Renew
            }
            Self::Begin { act, id, joined, mark, slots } => {
                words.push(act).push(id).push(joined).push(mark).all(slots);
                Script::Begin
            }
            Self::Lag { act, id, seq, all } => {
                words.push(act).push(id).push(seq).push(u8::from(*all));
                Script::Lag
            }
            Self::Hear { act, id, applied } => {
                words.push(act).push(id).push(applied);
                Script::Hear
            }
            Self::End { act, mark, committed, slots } => {
                words.push(act).push(mark).push(u8::from(*committed)).all(slots);
                Script::End
            }
            Self::Bump { act, slots } => {
                words.push(act).all(slots);
                Script::Bump
            }
            Self::Leave { act, id } => {
                words.push(act).push(id);
                Script::Leave
            }
            Self::Members { act } => {
                words.push(act);
                Script::Members
            }
            Self::Check { slots } => {
                words.push("act").push("open");
                for slot in slots {
                    words.push(format_args!("s:{slot}"));
                }
                return Call::Fields(words.0);
            }
            Self::Time => return Call::Time,
        };
        Call::Script(script, words.0)
    }

    /// What the words of Redis's answer to this request mean; `None` is a nil.
    pub fn reply(&self, words: &[Option<Vec<u8>>]) -> Result<Reply, Malformed> {
        let mut words = Reader { words: words.iter(), read: 0 };
        let reply = match self {
            Self::Check { slots } => {
                let answer = words.checked(slots.len())?;
                Reply { now: None, answer }
            }
            Self::Time => {
                let (seconds, micros) = (words.number()?, words.number()?);
                let now = seconds.checked_mul(1000).and_then(|now| now.checked_add(micros / 1000));
                let now = now.ok_or_else(|| words.malformed("a time"))?;
                Reply { now: Some(now), answer: Answer::Time }
            }
            Self::Join { .. }
            | Self::Renew(_)
            | Self::Begin { .. }
            | Self::Lag { .. }
            | Self::Hear { .. }
            | Self::End { .. }
            | Self::Bump { .. }
            | Self::Leave { .. }
            | Self::Members { .. } => {
                let said = words.word()?;
                let now = Some(words.number()?);
                let answer = match said {
                    b"ok" => self.accepted(&mut words)?,
                    b"lost" => Answer::Lost,
                    b"late" => Answer::Late,
                    b"passed" => Answer::Passed,
                    b"census" => Answer::Census { stranger: words.id()? },
                    b"lease" => Answer::OtherLease { lease: words.number()? },
                    _ => return Err(words.malformed("ok, lost, late, passed, census or lease")),
                };
                Reply { now, answer }
            }
        };
        words.end()?;
        Ok(reply)
    }

    /// What follows `ok`.
    fn accepted(&self, words: &mut Reader<'_>) -> Result<Answer, Malformed> {
        Ok(match self {
            Self::Join { .. } => {
                let (act, open, seq) = (words.act()?, words.flag()?, words.number()?);
                Answer::Joined { act, open, seq, outlived: words.number()? }
            }
            Self::Renew(_) => Answer::Renewed(Renewed {
                open: words.flag()?,
                seq: words.number()?,
                grant: words.number()?,
                members: words.number()?,
                slots: words.slots()?,
            }),
            Self::Begin { .. } => Answer::Begun {
                open: words.flag()?,
                seq: words.number()?,
                catalog: words.slot()?,
                waits: words.waits()?,
            },
            Self::Lag { .. } => Answer::Lag { waits: words.waits()? },
            Self::Hear { .. } => Answer::Heard { seq: words.number()?, slots: words.slots()? },
            Self::End { .. } | Self::Bump { .. } => Answer::Changed { slots: words.slots()? },
            Self::Leave { .. } => Answer::Left,
            Self::Members { .. } => Answer::Members { seq: words.number()?, ids: words.ids()? },
            Self::Check { .. } | Self::Time => return Err(words.malformed("no such word")),
        })
    }
}

/// An answer that none of our scripts gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Which word of the answer, from 1.
    pub word: usize,
    pub expected: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} as word {} of the answer", self.expected, self.word)
    }
}

#[derive(Default)]
struct Words(Vec<Vec<u8>>);

impl Words {
    fn push(&mut self, word: impl fmt::Display) -> &mut Self {
        self.0.push(word.to_string().into_bytes());
        self
    }

    fn all(&mut self, words: &[impl fmt::Display]) {
        self.0.extend(words.iter().map(|word| word.to_string().into_bytes()));
    }
}

struct Reader<'a> {
    words: std::slice::Iter<'a, Option<Vec<u8>>>,
    read: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, expected: &'static str) -> Malformed {
        Malformed { word: self.read, expected }
    }

    fn next(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        self.read += 1;
        let word = self.words.next().ok_or_else(|| self.malformed("more"))?;
        Ok(word.as_deref())
    }

    fn word(&mut self) -> Result<&'a [u8], Malformed> {
        self.next()?.ok_or_else(|| self.malformed("a word"))
    }

    fn parse<T>(
        &mut self,
        expected: &'static str,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, Malformed> {
        let word = self.word()?;
        parse(word).ok_or_else(|| self.malformed(expected))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.parse("a number", parse_number)
    }

    fn id(&mut self) -> Result<u32, Malformed> {
        self.parse("a member", |word| u32::try_from(parse_number(word)?).ok())
    }

    fn act(&mut self) -> Result<Act, Malformed> {
        self.parse("an act", Act::parse)
    }

    fn slot(&mut self) -> Result<Slot, Malformed> {
        self.parse("a slot", Slot::parse)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        self.parse("0 or 1", |word| match word {
            b"0" => Some(false),
            b"1" => Some(true),
            _ => None,
        })
    }

    /// All that is left, so many at most.
    fn rest<T>(
        &mut self,
        max: usize,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let mut all = Vec::new();
        while self.words.len() > 0 {
            if all.len() == max {
                self.read += 1;
                return Err(self.malformed("no more"));
            }
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn ids(&mut self) -> Result<Vec<u32>, Malformed> {
        self.rest(MEMBERS_MAX, Self::id)
    }

    fn waits(&mut self) -> Result<Vec<Wait>, Malformed> {
        self.rest(MEMBERS_MAX, |words| Ok(Wait { id: words.id()?, ms: words.number()? }))
    }

    fn slots(&mut self) -> Result<Vec<(SlotName, Slot)>, Malformed> {
        self.rest(SLOTS_MAX, |words| Ok((words.parse("a slot", SlotName::parse)?, words.slot()?)))
    }

    fn checked(&mut self, count: usize) -> Result<Answer, Malformed> {
        let mut act = || match self.next()? {
            Some(word) => Act::parse(word).map(Some).ok_or_else(|| self.malformed("an act")),
            None => Ok(None),
        };
        let (act, open) = (act()?, act()?);
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let slot = self.next()?.map_or_else(|| Some(Slot::default()), Slot::parse);
            slots.push(slot.ok_or_else(|| self.malformed("a slot"))?);
        }
        Ok(Answer::Checked { act, open, slots })
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.rest(0, |_| Ok(())).map(|_none| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::verdict::TableId;

    const ACT: Act = Act([0xab; 16]);
    const HEX: &str = "abababababababababababababababab";
    const LIFE: Life = Life { timeline: 6, started: 7 };
    const MARK: Mark = Mark { id: 3, n: 4 };
    const TABLE: SlotName = SlotName::Table(TableId(16_384));

    fn join() -> Request {
        let process = Process { run_id: [0; 20], replication_id: [0xff; 20] };
        let marks = vec![(MARK, vec![TABLE, SlotName::Database]), (Mark { id: 5, n: 6 }, vec![])];
        Request::Join { process, life: LIFE, id: 1, until: 2, act: ACT, lease: 9, marks }
    }

    fn renew() -> Request {
        Request::Renew(Renew {
            act: ACT,
            id: 1,
            until: 2,
            applied: 3,
            lease: 4,
            local: true,
            seen: vec![5, 6],
            gone_seq: 7,
            gone: vec![8],
        })
    }

    fn begin() -> Request {
        let slots = vec![TABLE, SlotName::Catalog];
        Request::Begin { act: ACT, id: 3, joined: 7, mark: MARK, slots }
    }

    fn check_slots() -> Request {
        Request::Check { slots: vec![SlotName::Database, TABLE] }
    }

    /// Words parted by a space, `-` for a nil and `_` for a space in a word.
    fn words(line: &str) -> Vec<Option<Vec<u8>>> {
        let word = |word: &str| (word != "-").then(|| word.replace('_', " ").into_bytes());
        line.split_ascii_whitespace().map(word).collect()
    }

    #[test]
    fn requests_are_words() {
        let check = |request: Request, script: Script, expected: &str| {
            let expected = words(expected).into_iter().flatten().collect();
            assert_eq!(request.call(), Call::Script(script, expected));
        };
        let run = format!("{}:{}", "0".repeat(40), "f".repeat(40));
        let joining = format!("{run} 6 7 1 2 {HEX} 9 2 3.4 2 16384 * 5.6 0");
        check(join(), Script::Join, &joining);
        check(renew(), Script::Renew, &format!("{HEX} 1 2 3 4 1 2 5 6 7 1 8"));
        check(begin(), Script::Begin, &format!("{HEX} 3 7 3.4 16384 c"));
        let lag = Request::Lag { act: ACT, id: 1, seq: 2, all: false };
        check(lag, Script::Lag, &format!("{HEX} 1 2 0"));
        let end = Request::End { act: ACT, mark: MARK, committed: true, slots: vec![TABLE] };
        check(end, Script::End, &format!("{HEX} 3.4 1 16384"));
        let bump = Request::Bump { act: ACT, slots: vec![SlotName::Database] };
        check(bump, Script::Bump, &format!("{HEX} *"));
        check(Request::Leave { act: ACT, id: 1 }, Script::Leave, &format!("{HEX} 1"));
        check(Request::Members { act: ACT }, Script::Members, HEX);
        let fields = words("act open s:* s:16384").into_iter().flatten().collect();
        assert_eq!(check_slots().call(), Call::Fields(fields));
    }

    /// Every kind of answer, in the words of Redis.
    fn answers() -> Vec<(Request, String, Answer)> {
        let slot = |generation, seq, marks| Slot { generation, seq, marks };
        let renewed = Renewed {
            open: true,
            seq: 8,
            grant: 70,
            members: 2,
            slots: vec![(TABLE, slot(1, 8, vec![MARK])), (SlotName::Catalog, slot(2, 7, vec![]))],
        };
        let begun = Answer::Begun {
            open: false,
            seq: 8,
            catalog: slot(1, 2, vec![]),
            waits: vec![Wait { id: 5, ms: 6 }],
        };
        let lag = Request::Lag { act: ACT, id: 1, seq: 2, all: false };
        let bump = Request::Bump { act: ACT, slots: vec![TABLE] };
        let members = Request::Members { act: ACT };
        let checked = Answer::Checked {
            act: Some(ACT),
            open: None,
            slots: vec![slot(1, 2, vec![MARK]), Slot::default()],
        };
        let joined = Answer::Joined { act: ACT, open: true, seq: 3, outlived: 4 };
        let nothing = Answer::Checked { act: None, open: None, slots: vec![Slot::default(); 2] };
        vec![
            (begin(), "lost 9".to_owned(), Answer::Lost),
            (join(), "late 9".to_owned(), Answer::Late),
            (renew(), "census 9 6".to_owned(), Answer::Census { stranger: 6 }),
            (join(), format!("ok 9 {HEX} 1 3 4"), joined),
            (join(), "passed 9".to_owned(), Answer::Passed),
            (join(), "lease 9 8".to_owned(), Answer::OtherLease { lease: 8 }),
            (renew(), "ok 9 1 8 70 2 16384 1_8_3.4 c 2_7".to_owned(), Answer::Renewed(renewed)),
            (begin(), "ok 9 0 8 1_2 5 6".to_owned(), begun),
            (lag, "ok 9 5 6".to_owned(), Answer::Lag { waits: vec![Wait { id: 5, ms: 6 }] }),
            (
                bump,
                "ok 9 16384 1_8".to_owned(),
                Answer::Changed { slots: vec![(TABLE, slot(1, 8, vec![]))] },
            ),
            (Request::Leave { act: ACT, id: 1 }, "ok 9".to_owned(), Answer::Left),
            (members, "ok 9 8 1 2".to_owned(), Answer::Members { seq: 8, ids: vec![1, 2] }),
            (check_slots(), format!("{HEX} - 1_2_3.4 -"), checked),
            (check_slots(), "- - - -".to_owned(), nothing),
            (Request::Time, "0 9999".to_owned(), Answer::Time),
        ]
    }

    #[test]
    fn answers_are_read_with_their_time() {
        for (request, line, answer) in answers() {
            let now = (!matches!(request, Request::Check { .. })).then_some(9);
            assert_eq!(request.reply(&words(&line)), Ok(Reply { now, answer }), "{line}");
        }
    }

    #[test]
    fn an_answer_with_less_or_more_is_never_one_with_another_head() {
        for (request, line, _) in answers() {
            let all = words(&line);
            for count in 0..all.len() {
                if let Ok(shorter) = request.reply(&all[..count]) {
                    let whole = request.reply(&all).unwrap();
                    // Only a list at the end may be shorter.
                    let kind = std::mem::discriminant::<Answer>;
                    assert_eq!(kind(&shorter.answer), kind(&whole.answer), "{line}: {count}");
                    assert!(count >= 2, "{line}: {count}");
                }
            }
            let mut longer = all;
            longer.push(Some(b"junk".to_vec()));
            assert!(request.reply(&longer).is_err(), "{line}");
        }
    }

    #[test]
    fn a_word_of_another_kind_in_any_place_is_an_error() {
        for (request, line, _) in answers() {
            for at in 0..words(&line).len() {
                for junk in [Some(&b""[..]), Some(b"-1"), Some(b"\xff"), Some(b"1 2 3")] {
                    let mut all = words(&line);
                    all[at] = junk.map(<[u8]>::to_vec);
                    assert!(request.reply(&all).is_err(), "{line}: {junk:?} at {at}");
                }
                let mut all = words(&line);
                if !matches!(request, Request::Check { .. }) {
                    all[at] = None;
                    assert!(request.reply(&all).is_err(), "{line}: nil at {at}");
                }
            }
        }
    }

    #[test]
    fn lists_have_a_bound() {
        let mut all = words("ok 9 8");
        all.extend(words(&"1 ".repeat(MEMBERS_MAX)));
        let members = Request::Members { act: ACT };
        assert!(members.reply(&all).is_ok());
        all.extend(words("1"));
        let expected = Malformed { word: 3 + MEMBERS_MAX + 1, expected: "no more" };
        assert_eq!(members.reply(&all), Err(expected));
        let mut all = words("ok 9");
        all.extend(words(&"1 0_0 ".repeat(SLOTS_MAX + 1)));
        let bump = Request::Bump { act: ACT, slots: Vec::new() };
        assert_eq!(bump.reply(&all).unwrap_err().expected, "no more");
    }

    #[test]
    fn a_time_past_counting_is_an_error() {
        let seconds = words(&format!("{} 0", u64::MAX));
        assert!(Request::Time.reply(&seconds).is_err());
    }
}
