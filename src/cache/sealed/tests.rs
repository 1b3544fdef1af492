//! Layout 3, in and out, and whatever else may lie there.

use super::*;
use crate::cache::coherence::Scope;

const A: TableId = TableId(16_384);
const DESCRIPTION: &[u8] = b"T\0\0\0\x1b\0\x02a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const ROWS: &[u8] = b"D\0\0\0\x0f\0\x02\0\0\0\x01x\xff\xff\xff\xffC\0\0\0\x0dSELECT 1\0";

struct World {
    seal: Seal,
    coherence: Coherence,
    started: Instant,
}

fn world(compress_from: usize) -> World {
    let started = Instant::now();
    let seal = Seal::new(&[7; 32], started, 1 << 20, compress_from);
    World { seal, coherence: Coherence::new(5), started }
}

impl World {
    fn entry(&self, description: Option<&[u8]>, rows: &[u8]) -> Entry {
        let answer = Answer::new(b"key", description, rows).unwrap();
        let stamp = self.coherence.stamp(&[A]).unwrap();
        Entry::new(9, answer, stamp, self.started + Duration::from_millis(5))
    }

    fn sealed(&self) -> Vec<u8> {
        self.seal.seal(&self.entry(Some(DESCRIPTION), ROWS)).unwrap()
    }

    fn open(&self, sealed: &[u8]) -> Result<Entry, Unsealed> {
        self.seal.open(sealed, b"key", 9, &self.coherence)
    }
}

#[test]
fn an_entry_comes_back_as_it_was() {
    for compress_from in [0, usize::MAX] {
        let world = world(compress_from);
        let entry = world.open(&world.sealed()).unwrap();
        assert_eq!((entry.key(), entry.hash()), (&b"key"[..], 9));
        assert_eq!(entry.row_description(), Some(DESCRIPTION));
        assert_eq!(entry.rows(), ROWS);
        assert_eq!(entry.asked_at, world.started + Duration::from_millis(5));
        assert!(entry.stamp.holds());
    }
}

#[test]
fn an_entry_without_description_comes_back_without_one() {
    let world = world(usize::MAX);
    let sealed = world.seal.seal(&world.entry(None, ROWS)).unwrap();
    assert_eq!(world.open(&sealed).unwrap().row_description(), None);
}

#[test]
fn repetitive_rows_are_stored_shorter() {
    const ROW: &[u8; 12] = b"D\0\0\0\x0b\0\x01\0\0\0\x01x";
    let mut rows = ROW.repeat(1000);
    rows.extend_from_slice(b"C\0\0\0\x10SELECT 1000\0");
    let world = world(4096);
    let sealed = world.seal.seal(&world.entry(None, &rows)).unwrap();
    assert!(sealed.len() < rows.len() / 10);
    assert_eq!(world.open(&sealed).unwrap().rows(), rows);
}

#[test]
fn who_reads_what_is_stored_learns_neither_rows_nor_statement() {
    const SECRET: &[u8] = b"D\0\0\0\x19\0\x01\0\0\0\x0fmost secret rowC\0\0\0\x0dSELECT 1\0";
    let world = world(usize::MAX);
    let (one, other) = (world.entry(None, SECRET), world.entry(None, SECRET));
    let (one, other) = (world.seal.seal(&one).unwrap(), world.seal.seal(&other).unwrap());
    for sealed in [&one, &other] {
        assert_eq!(world.open(sealed).unwrap().rows(), SECRET);
        for secret in [&b"secret"[..], b"SELECT", b"key"] {
            assert!(!sealed.windows(secret.len()).any(|window| window == secret));
        }
    }
    // Nor that two are the same.
    let equal = one.iter().zip(&other).skip(HEAD_BYTES + NONCE_LEN).filter(|(a, b)| a == b);
    assert!(equal.count() < SECRET.len() / 2);
}

#[test]
fn a_write_in_between_unmakes_what_was_stored() {
    let world = world(usize::MAX);
    let sealed = world.sealed();
    world.coherence.begin_write(&Scope::Tables([A].into())).committed();
    assert!(!world.open(&sealed).unwrap().stamp.holds());
}

#[test]
fn another_process_can_neither_find_nor_open_it() {
    let ours = world(usize::MAX);
    let theirs = Seal::new(&[8; 32], ours.started, 1 << 20, usize::MAX);
    assert_ne!(ours.seal.name("p:", b"key"), theirs.name("p:", b"key"));
    let opened = theirs.open(&ours.sealed(), b"key", 9, &ours.coherence);
    assert_eq!(opened.unwrap_err(), Unsealed::Forged);
}

#[test]
fn an_earlier_life_with_the_same_secret_would_still_be_refused() {
    let world = world(usize::MAX);
    let sealed = world.sealed();
    let reborn = Coherence::new(6);
    reborn.stamp(&[A]).unwrap();
    let opened = world.seal.open(&sealed, b"key", 9, &reborn);
    assert_eq!(opened.unwrap_err(), Unsealed::WrongTime);
}

#[test]
fn an_entry_put_in_the_place_of_another_is_refused() {
    let world = world(usize::MAX);
    let opened = world.seal.open(&world.sealed(), b"kez", 9, &world.coherence);
    assert_eq!(opened.unwrap_err(), Unsealed::WrongKey);
}

#[test]
fn every_changed_bit_and_every_truncation_is_refused() {
    for compress_from in [0, usize::MAX] {
        let world = world(compress_from);
        let sealed = world.sealed();
        for end in 0..sealed.len() {
            assert!(world.open(&sealed[..end]).is_err());
        }
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(world.open(&changed).unwrap_err(), Unsealed::Forged);
        }
        assert!(world.open(&[&sealed[..], &[0]].concat()).is_err());
    }
}

#[test]
fn a_value_over_the_bound_is_not_looked_into() {
    let world = world(usize::MAX);
    let long = vec![0; world.seal.sealed_bytes_max() + 1];
    assert_eq!(world.open(&long).unwrap_err(), Unsealed::TooLong);
}

#[test]
fn an_entry_over_the_bound_is_not_sealed() {
    let world = world(usize::MAX);
    let entry = world.entry(None, &vec![0; 2 << 20]);
    assert!(world.seal.seal(&entry).is_none());
}

/// As if somebody had the secret: the decoder must still not be led astray.
#[test]
fn a_body_cut_short_or_random_is_no_entry() {
    let world = world(usize::MAX);
    let body = world.seal.body(&world.entry(Some(DESCRIPTION), ROWS)).unwrap();
    assert!(Body::read(&body).is_some());
    for end in 0..body.len() {
        assert!(Body::read(&body[..end]).is_none());
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
            assert!(is_answer(read.row_description, read.rows));
        }
    }
}

#[test]
fn an_lz4_body_that_is_not_as_long_as_it_says_is_refused() {
    let world = world(usize::MAX);
    let body = world.seal.body(&world.entry(None, ROWS)).unwrap();
    let packed = pack(&body).unwrap();
    for (len, expected) in [
        (0, Unsealed::Malformed),
        (body.len() - 1, Unsealed::Malformed),
        (body.len() + 1, Unsealed::Malformed),
        (world.seal.body_bytes_max() + 1, Unsealed::TooLong),
    ] {
        let mut head = vec![LAYOUT, LZ4];
        put_u32(&mut head, len).unwrap();
        let sealed = world.seal.encipher(head, packed.clone()).unwrap();
        assert_eq!(world.open(&sealed).unwrap_err(), expected);
    }
}

#[test]
fn only_an_answer_is_an_answer() {
    let check = |rows: &[u8], answer: bool| assert_eq!(is_answer(None, rows), answer, "{rows:?}");
    check(ROWS, true);
    check(b"C\0\0\0\x0dSELECT 0\0", true);
    check(b"", false);
    check(b"D\0\0\0\x06\0\0", false);
    check(b"Z\0\0\0\x05I", false);
    check(b"E\0\0\0\x05\0C\0\0\0\x0dSELECT 0\0", false);
    check(b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I", false);
    check(b"C\0\0\0\x0dSELECT 00", false);
    check(b"C\0\0\0\x04", false);
    // One column, then none.
    check(b"D\0\0\0\x0a\0\x01\xff\xff\xff\xffD\0\0\0\x06\0\0C\0\0\0\x0dSELECT 2\0", false);
    // A column longer than its row.
    check(b"D\0\0\0\x0a\0\x01\0\0\0\x01C\0\0\0\x0dSELECT 1\0", false);
    // A description of two columns over rows of one.
    assert!(!is_answer(
        Some(DESCRIPTION),
        b"D\0\0\0\x0a\0\x01\xff\xff\xff\xffC\0\0\0\x0dSELECT 1\0"
    ));
}
