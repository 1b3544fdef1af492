//! The model's K beside the register, which the scripts are held against: the same requests in
//! seeded random orders, the same answers.

use forebay::cache::group::process::Process;
use forebay::cache::group::script;
use forebay::cache::group::slot::{Act, Mark};

use forebay::cache::group::life::Life;

use super::k::{K, Reply, Request, Slot, mark, ones};
use super::setup::{CATALOG, NOW};
use super::tests::GRANTS;
use super::world::names;
use crate::group::register::Register;

const LIFE: Life = Life { timeline: 1, started: 1 };
const PROCESS: Process = Process { run_id: [1; 20], replication_id: [2; 20] };
const ACT: Act = Act([0; 16]);

struct Both {
    k: K,
    register: Register,
    passed: u64,
    seed: u64,
}

impl Both {
    fn below(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (self.seed >> 33) % bound
    }

    fn request(&mut self) -> (usize, Request) {
        let (at, n) = (self.below(3) as usize, self.below(5) + 1);
        let slots = self.below(15) as u8 + 1;
        let change = self.below(self.k.seq + 1);
        let until = NOW + self.below(4);
        let some = |bits: u64| bits as u8 & 0b111;
        let request = match self.below(10) {
            0 => Request::Join { run: 0, until, marks: vec![(mark(at, n), slots)] },
            1 => Request::Members,
            2..=4 => {
                let gone = some(self.below(8));
                let members = u64::from(self.k.members());
                let seen = if self.below(4) == 0 { self.below(8) } else { members };
                let (applied, gone_seq) = (change, self.below(self.k.seq + 1));
                Request::Renew { until, applied, seen: some(seen), gone_seq, gone }
            }
            5 => Request::Begin { n, slots },
            6 => Request::Lag { seq: change, all: n < 3 },
            7 => Request::Hear { applied: change },
            8 => Request::Leave,
            _ => Request::End { n, committed: n < 4, slots },
        };
        (at, request)
    }

    fn words(&self, at: usize, request: &Request) -> script::Request {
        let (act, id) = (ACT, at as u32);
        let ids = |bits: u8| ones(bits).map(|at| at as u32).collect();
        match request {
            &Request::Join { until, ref marks, .. } => {
                let n = |bit: u16| u64::from(bit.trailing_zeros()) - u64::from(id) * 5 + 1;
                let marks =
                    marks.iter().map(|(bit, slots)| (Mark { id, n: n(*bit) }, names(*slots)));
                let (process, marks) = (PROCESS, marks.collect());
                // All have the same one, and clocks go on: what K looks at it for is not modelled.
                let (until, lease) = (until + self.passed, u64::from(u32::MAX));
                script::Request::Join { process, life: LIFE, id, until, act, lease, marks }
            }
            Request::Members => script::Request::Members { act },
            &Request::Renew { until, applied, seen, gone_seq, gone } => {
                script::Request::Renew(script::Renew {
                    act,
                    id,
                    until: until + self.passed,
                    applied,
                    lease: GRANTS.lease,
                    local: true,
                    seen: ids(seen),
                    gone_seq,
                    gone: ids(gone),
                })
            }
            &Request::Begin { n, slots } => {
                let (mark, slots) = (Mark { id, n }, names(slots));
                let member = self.register.k.as_ref().and_then(|k| k.members.get(&id));
                let joined = member.map_or(0, |member| member.joined);
                script::Request::Begin { act, id, joined, mark, slots }
            }
            &Request::Lag { seq, all } => script::Request::Lag { act, id, seq, all },
            &Request::Hear { applied } => script::Request::Hear { act, id, applied },
            &Request::End { n, committed, slots } => {
                let (mark, slots) = (Mark { id, n }, names(slots));
                script::Request::End { act, mark, committed, slots }
            }
            Request::Leave => script::Request::Leave { act, id },
        }
    }

    fn ask(&mut self) {
        let (at, request) = self.request();
        let words = self.words(at, &request);
        let expected = self.register.call(&words, NOW + self.passed);
        let answer = match &request {
            Request::Join { until, marks, .. } if *until > NOW => {
                self.k.join(&GRANTS, at, *until, marks)
            }
            Request::Join { .. } => Reply::JoinLate,
            Request::Members
            | Request::Renew { .. }
            | Request::Begin { .. }
            | Request::Lag { .. }
            | Request::Hear { .. }
            | Request::End { .. }
            | Request::Leave => self.k.serve(&GRANTS, at, &request),
        };
        assert!(is_like(&answer, &expected), "{request:?}: {answer:?}, {expected:?}");
    }
}

fn is_slot(slot: &Slot, like: &forebay::cache::group::slot::Slot) -> bool {
    let marks = like.marks.iter().map(|of| mark(of.id as usize, of.n)).sum::<u16>();
    (u64::from(slot.generation), slot.seq, slot.marks) == (like.generation, like.seq, marks)
}

fn is_like(answer: &Reply, like: &script::Answer) -> bool {
    use script::Answer;
    let waited = |waits: &[script::Wait]| -> Vec<_> {
        waits.iter().map(|wait| (wait.id, wait.ms)).collect()
    };
    let slots = |slots: &[Option<Slot>; 4], like: &[(_, forebay::cache::group::slot::Slot)]| {
        let found = like.iter().all(|(name, value)| {
            let at = super::world::bits(&[*name]).trailing_zeros() as usize;
            slots[at].is_some_and(|slot| is_slot(&slot, value))
        });
        found && slots.iter().flatten().count() == like.len()
    };
    match (answer, like) {
        (Reply::Lost, Answer::Lost)
        | (Reply::Left, Answer::Left)
        | (Reply::JoinLate, Answer::Late)
        | (Reply::Refused, Answer::Late | Answer::Census { .. }) => true,
        (Reply::Joined { open, .. }, Answer::Joined { open: other, .. }) => open == other,
        (Reply::Members { seq, listed, .. }, Answer::Members { seq: other, ids }) => {
            seq == other && ones(*listed).map(|at| at as u32).eq(ids.iter().copied())
        }
        (Reply::Renewed { open, seq, grant, slots: changed }, Answer::Renewed(like)) => {
            (open, seq, grant) == (&like.open, &like.seq, &like.grant)
                && slots(changed, &like.slots)
        }
        (Reply::Begun { open, seq, catalog, waits, .. }, Answer::Begun { .. }) => {
            let Answer::Begun { open: o, seq: s, catalog: c, waits: w } = like else {
                return false;
            };
            (open, seq) == (o, s) && is_slot(catalog, c) && *waits == waited(w)
        }
        (Reply::Lag { behind, .. }, Answer::Lag { waits }) => {
            behind.iter().copied().eq(waits.iter().map(|wait| wait.id))
        }
        (Reply::Heard { seq, slots: changed }, Answer::Heard { seq: other, slots: like }) => {
            seq == other && slots(changed, like)
        }
        (Reply::Ended { slots: changed, .. }, Answer::Changed { slots: like }) => {
            slots(changed, like)
        }
        _ => false,
    }
}

#[test]
fn the_models_k_answers_as_the_register_does() {
    assert_eq!(CATALOG, 2, "the second slot");
    let mut long_lives = 0;
    for seed in 0..2000 {
        let (k, register) = (K::new(0, 0, &GRANTS), Register::default());
        let mut both = Both { k, register, passed: 0, seed };
        let join = Request::Join { run: 0, until: NOW + 3, marks: Vec::new() };
        both.register.call(&both.words(0, &join), NOW);
        both.k.join(&GRANTS, 0, NOW + 3, &[]);
        for step in 0..200 {
            if both.below(6) == 0 {
                both.passed += 1;
                if !both.k.tick(&GRANTS) {
                    assert!(both.register.k.is_none_or(|k| k.end() <= NOW + both.passed));
                    long_lives += u32::from(step > 20);
                    break;
                }
            }
            both.ask();
        }
    }
    assert!(long_lives > 20, "K has to live for long now and then: {long_lives}");
}
