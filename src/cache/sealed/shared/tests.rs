//! Layout 4, between members whose K is told by hand.

use std::sync::Arc;

use super::*;
use crate::cache::coherence::Scope;
use crate::cache::group::life::Life;
use crate::cache::group::process::Process;
use crate::cache::group::rounds::Errand;
use crate::cache::group::script::{Answer as Said, Renewed, Reply, Request};
use crate::cache::group::settings::Settings;
use crate::cache::group::slot::{Mark, Slot, SlotName};

const A: TableId = TableId(16_384);
const B: TableId = TableId(16_385);
const ACT: Act = Act([7; 16]);
const LIFE: Life = Life { timeline: 1, started: 1 };
const K: &str = "fb:{g:1:2:3:4}";
/// Redis's clock when it was last heard.
const HEARD_MS: u64 = 1_000_000;
const DESCRIPTION: &[u8] = b"T\0\0\0\x1b\0\x02a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const ROWS: &[u8] = b"D\0\0\0\x0f\0\x02\0\0\0\x01x\xff\xff\xff\xffC\0\0\0\x0dSELECT 1\0";
const SECRET: &[u8] = b"a secret of the group";

/// One member, with what it knows of K.
struct Member {
    seal: SharedSeal,
    coherence: Arc<Coherence>,
    group: Arc<Group>,
    now: Instant,
}

impl Member {
    /// Of an open K that knows these tables.
    fn new(id: u32) -> Self {
        let member = Self::outside(id, SECRET, 1 << 20, usize::MAX);
        member.join(ACT, true);
        member
    }

    fn outside(id: u32, secret: &[u8], bytes_max: usize, compress_from: usize) -> Self {
        let now = Instant::now();
        let coherence = Arc::new(Coherence::new(id.into()));
        let group =
            Arc::new(Group::new(id, Arc::new(Settings::example()), Arc::clone(&coherence), now));
        group.take_lock((1, K), Instant::now());
        let salt = [u8::try_from(id).unwrap(); SALT_BYTES];
        let seal = SharedSeal::new(secret, salt, bytes_max, compress_from);
        Self { seal, coherence, group, now }
    }

    /// What is asked is answered so.
    fn hear(&self, errand: Errand, answers: impl Fn(&Request) -> Said) {
        let round = self.group.round(errand);
        let replies = round
            .requests
            .iter()
            .map(|request| Reply { now: Some(HEARD_MS), answer: answers(request) })
            .collect();
        self.group.answered(round, replies, (self.now, self.now), &self.coherence, &|| ());
    }

    fn join(&self, act: Act, open: bool) {
        let process = Process { run_id: [1; 20], replication_id: [2; 20] };
        let errand = Errand::Join { t0: HEARD_MS, heard_at: 0, process, life: LIFE, act };
        self.hear(errand, |_| Said::Joined { act, open, seq: 1, outlived: 0 });
        self.renew(open, Vec::new());
    }

    fn renew(&self, open: bool, slots: Vec<(SlotName, Slot)>) {
        let (listed, seen) = (Vec::new(), Vec::new());
        let errand = Errand::Renew { t0: HEARD_MS, heard_at: 0, seq: 1, listed, seen };
        let renewed = Renewed { open, seq: 1, grant: 0, members: 2, slots };
        self.hear(errand, |_| Said::Renewed(renewed.clone()));
    }

    /// K has this of the table.
    fn see(&self, table: TableId, slot: &Slot) {
        self.renew(true, vec![(SlotName::Table(table), slot.clone())]);
    }

    fn entry(&self, description: Option<&[u8]>, rows: &[u8]) -> Entry {
        let answer = Answer::new(b"key", description, rows).unwrap();
        Entry::new(9, answer, self.coherence.stamp(&[A]).unwrap(), self.now)
    }

    fn seal(&self, entry: &Entry) -> Option<Vec<u8>> {
        let (k, versions, clock) = self.group.versions(&[A])?;
        assert_eq!(&*k, K);
        self.seal.seal(entry, &material(K, 1, b"statement"), (&versions, clock))
    }

    fn sealed(&self) -> Vec<u8> {
        self.seal(&self.entry(Some(DESCRIPTION), ROWS)).unwrap()
    }

    fn open(&self, sealed: &[u8]) -> Result<Entry, Unsealed> {
        self.open_as(sealed, &material(K, 1, b"statement"), HEARD_MS + 5)
    }

    fn open_as(&self, sealed: &[u8], as_: &Material, at_ms: u64) -> Result<Entry, Unsealed> {
        let (group, coherence) = (&*self.group, &self.coherence);
        let redis_us = at_ms * 1000;
        let asked_at = self.now + Duration::from_secs(100);
        let reader = Reader { group, coherence, redis_us, asked_at };
        self.seal.open(sealed, as_, (b"ours", 5), &reader)
    }
}

fn material(k: &str, session: u8, statement: &[u8]) -> Material {
    material_in(7, k, session, statement)
}

fn material_in(catalogue: u8, k: &str, session: u8, statement: &[u8]) -> Material {
    let [catalogue, session] = [catalogue, session].map(|byte| Digest([byte; 32]));
    Material::new(k, &Session { catalogue, session }, statement).unwrap()
}

fn slot(generation: u64) -> Slot {
    Slot { generation, seq: generation, marks: Vec::new() }
}

#[test]
fn what_one_seals_another_opens() {
    for compress_from in [0, usize::MAX] {
        let one = Member::outside(1, SECRET, 1 << 20, compress_from);
        one.join(ACT, true);
        let entry = Member::new(2).open(&one.sealed()).unwrap();
        assert_eq!((entry.key(), entry.hash()), (&b"ours"[..], 5));
        assert_eq!(entry.row_description(), Some(DESCRIPTION));
        assert_eq!(entry.rows(), ROWS);
        assert!(entry.stamp.holds());
        let tables: Vec<_> = entry.stamp.slots().map(|slot| slot.table).collect();
        assert_eq!(tables, [None, Some(A)]);
    }
}

#[test]
fn an_entry_is_as_old_as_redis_says_and_never_younger() {
    let (one, two) = (Member::new(1), Member::new(2));
    let sealed = one.sealed();
    let read_at = two.now + Duration::from_secs(100);
    for passed in [0, 5, 70_000] {
        let opened = two.open_as(&sealed, &material(K, 1, b"statement"), HEARD_MS + passed);
        let age = read_at - opened.unwrap().asked_at;
        let passed = Duration::from_millis(passed);
        assert!(age >= passed && age <= passed + Duration::from_millis(2), "{age:?}");
    }
    // A clock that was put back.
    let opened = two.open_as(&sealed, &material(K, 1, b"statement"), HEARD_MS - 100);
    assert_eq!(opened.unwrap_err(), Unsealed::WrongTime);
}

#[test]
fn what_was_asked_earlier_is_older() {
    let (one, two) = (Member::new(1), Member::new(2));
    let clock = Clock::new(HEARD_MS, one.now + Duration::from_millis(300));
    let (_, versions, _) = one.group.versions(&[A]).unwrap();
    let material = material(K, 1, b"statement");
    let sealed = one.seal.seal(&one.entry(None, ROWS), &material, (&versions, clock)).unwrap();
    let opened = two.open_as(&sealed, &material, HEARD_MS).unwrap();
    let age = two.now + Duration::from_secs(100) - opened.asked_at;
    assert!(age >= Duration::from_millis(300) && age <= Duration::from_millis(302), "{age:?}");
}

#[test]
fn an_answer_of_other_generations_is_not_opened() {
    let (one, two) = (Member::new(1), Member::new(2));
    let sealed = one.sealed();
    two.see(B, &slot(3));
    assert!(two.open(&sealed).is_ok());
    two.see(A, &slot(1));
    assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    one.see(A, &slot(1));
    let sealed = one.sealed();
    assert!(two.open(&sealed).is_ok());
    two.renew(true, vec![(SlotName::Database, slot(2))]);
    assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
}

#[test]
fn an_answer_of_another_act_is_not_opened() {
    let (one, two) = (Member::new(1), Member::new(2));
    let sealed = one.sealed();
    two.join(Act([8; 16]), true);
    assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    two.join(ACT, true);
    assert!(two.open(&sealed).is_ok());
}

#[test]
fn nothing_is_shared_while_k_is_shut_or_lost() {
    let (one, two) = (Member::new(1), Member::new(2));
    let (entry, sealed) = (one.entry(None, ROWS), one.sealed());
    for member in [&one, &two] {
        member.join(ACT, false);
        assert_eq!(member.seal(&entry), None);
        assert_eq!(member.open(&sealed).unwrap_err(), Unsealed::WrongTime);
        member.renew(true, Vec::new());
        assert!(member.open(&sealed).is_ok());
        member.group.lose("gone".to_owned(), member.now);
        assert_eq!(member.seal(&entry), None);
        assert_eq!(member.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    }
}

#[test]
fn what_others_are_about_to_change_is_not_shared() {
    let (one, two) = (Member::new(1), Member::new(2));
    let (entry, sealed) = (one.entry(None, ROWS), one.sealed());
    let marked = Slot { marks: vec![Mark { id: 3, n: 1 }], ..slot(0) };
    one.see(A, &marked);
    two.see(A, &marked);
    assert_eq!(one.seal(&entry), None);
    assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    // It was rolled back.
    two.see(A, &slot(0));
    assert!(two.open(&sealed).is_ok());
}

/// K says still what it said before the commit, and so does the answer of before it.
#[test]
fn an_answer_of_before_our_own_commit_is_not_opened_before_k_has_heard_of_it() {
    let two = Member::new(2);
    let sealed = Member::new(1).sealed();
    let scope = Scope::Tables([A].into());
    let mut guard = two.coherence.begin_write(&scope);
    guard.announce(Box::new(two.group.begin(&scope, false, (Some(two.now), 1))));
    let begun = Said::Begun { open: true, seq: 2, catalog: slot(0), waits: Vec::new() };
    two.hear(Errand::None, |_| begun.clone());
    assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    guard.committed();
    assert!(two.coherence.stamp(&[A]).is_some());
    assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    let slots = vec![(SlotName::Table(A), slot(1))];
    two.hear(Errand::None, |_| Said::Changed { slots: slots.clone() });
    assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    // What is asked from now on is another's as well.
    let after = two.sealed();
    let three = Member::new(3);
    assert_eq!(three.open(&after).unwrap_err(), Unsealed::WrongTime);
    three.see(A, &slot(1));
    assert!(three.open(&after).is_ok());
}

#[test]
fn an_answer_of_before_a_flush_is_not_opened_whatever_becomes_of_the_flush() {
    let two = Member::new(2);
    let sealed = Member::new(1).sealed();
    let refused = || assert_eq!(two.open(&sealed).unwrap_err(), Unsealed::WrongTime);
    two.group.bump(&Scope::Database);
    refused();
    // On its way, with the connection.
    let round = two.group.round(Errand::None);
    assert!(matches!(round.requests.as_slice(), [Request::Bump { .. }, Request::Check { .. }]));
    refused();
    two.group.failed(round, ("gone".to_owned(), false), two.now);
    two.hear(
        Errand::Join {
            t0: HEARD_MS,
            heard_at: 0,
            process: Process { run_id: [1; 20], replication_id: [2; 20] },
            life: LIFE,
            act: ACT,
        },
        |_| Said::Joined { act: ACT, open: true, seq: 1, outlived: 0 },
    );
    refused();
    two.hear(Errand::None, |request| {
        if let Request::Bump { slots, .. } = request {
            return Said::Changed { slots: slots.iter().map(|name| (*name, slot(1))).collect() };
        }
        Said::Checked { act: Some(ACT), open: Some(ACT), slots: vec![slot(1), slot(0)] }
    });
    refused();
    // All was heard of.
    two.see(A, &slot(0));
    assert!(two.open(&two.sealed()).is_ok());
}

#[test]
fn who_has_another_secret_can_neither_find_nor_open_it() {
    let one = Member::new(1);
    let theirs = Member::outside(2, b"another secret", 1 << 20, usize::MAX);
    theirs.join(ACT, true);
    let material = material(K, 1, b"statement");
    assert_ne!(one.seal.name(&material), theirs.seal.name(&material));
    assert_eq!(theirs.open(&one.sealed()).unwrap_err(), Unsealed::Forged);
}

#[test]
fn an_entry_of_another_key_is_not_opened() {
    let (one, two) = (Member::new(1), Member::new(2));
    let sealed = one.sealed();
    let ours = material(K, 1, b"statement");
    let mut names = vec![one.seal.name(&ours)];
    assert!(names[0].starts_with("fb:{g:1:2:3:4}:v:"));
    for other in [
        material("fb:{g:1:2:3:5}", 1, b"statement"),
        material(K, 2, b"statement"),
        material_in(8, K, 1, b"statement"),
        material(K, 1, b"statemenu"),
        material(K, 1, b""),
    ] {
        let opened = two.open_as(&sealed, &other, HEARD_MS + 5);
        assert_eq!(opened.unwrap_err(), Unsealed::Forged);
        names.push(two.seal.name(&other));
    }
    assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len());
    assert_eq!(two.seal.name(&ours), names[0]);
}

#[test]
fn every_changed_bit_and_every_truncation_is_refused() {
    for compress_from in [0, usize::MAX] {
        let one = Member::outside(1, SECRET, 1 << 20, compress_from);
        one.join(ACT, true);
        let (two, sealed) = (Member::new(2), one.sealed());
        assert!(two.open(&sealed).is_ok());
        for end in 0..sealed.len() {
            assert!(two.open(&sealed[..end]).is_err());
        }
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(two.open(&changed).unwrap_err(), Unsealed::Forged, "{bit}");
        }
        assert!(two.open(&[&sealed[..], &[0]].concat()).is_err());
    }
}

#[test]
fn two_processes_seal_under_two_keys() {
    let (one, two) = (Member::new(1), Member::new(2));
    let salt = |sealed: &[u8]| sealed[HEAD_BYTES..HEAD_BYTES + SALT_BYTES].to_vec();
    let (first, second) = (one.sealed(), two.sealed());
    assert_ne!(salt(&first), salt(&second));
    // Even if both used one nonce.
    let mut swapped = first;
    swapped[HEAD_BYTES..HEAD_BYTES + SALT_BYTES].copy_from_slice(&salt(&second));
    assert_eq!(two.open(&swapped).unwrap_err(), Unsealed::Forged);
    // What this process keeps for itself is none of it.
    let own = super::super::Seal::new(&[7; 32], one.now, 1 << 20, usize::MAX);
    let own = own.seal(&one.entry(None, ROWS)).unwrap();
    assert_eq!(two.open(&own).unwrap_err(), Unsealed::Forged);
}

#[test]
fn what_is_over_a_bound_is_neither_sealed_nor_looked_into() {
    let member = Member::new(1);
    assert_eq!(member.seal(&member.entry(None, &vec![0; 2 << 20])), None);
    let long = vec![0; member.seal.sealed_bytes_max() + 1];
    assert_eq!(member.open(&long).unwrap_err(), Unsealed::TooLong);
}

/// As if somebody had the secret: the decoder must still not be led astray.
#[test]
fn a_body_cut_short_or_random_is_no_entry() {
    let member = Member::new(1);
    let (_, versions, clock) = member.group.versions(&[A]).unwrap();
    let entry = member.entry(Some(DESCRIPTION), ROWS);
    let body = member.seal.body(&entry, &versions, clock).unwrap();
    assert!(Body::read(&body).is_some());
    for end in 0..body.len() {
        assert!(Body::read(&body[..end]).is_none(), "{end}");
    }
    assert!(Body::read(&[&body[..], &[0]].concat()).is_none());
    let mut state = 1_u64;
    for _ in 0..20_000 {
        let mut random = body.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(state >> 33).unwrap() % random.len();
            random[at] = state.to_be_bytes()[1];
        }
        if let Some(read) = Body::read(&random) {
            assert!(super::super::is_answer(read.row_description, read.rows));
            assert_eq!(read.versions.generations.len(), read.tables.len() + 1);
        }
    }
}
