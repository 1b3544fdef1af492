//! Every order of events in a small group: real `Member`s, one K, one PostgreSQL, breadth first, so
//! that the first story that ends in a stale hit is a shortest one.
//!
//! Time is a tick that passes whenever it likes: who does nothing meanwhile is slow, paused or cut
//! off. Requests arrive one after the other, late, after their sender is dead, or never. A hit must
//! not be older than PostgreSQL was when its request came.

#![expect(
    clippy::cast_possible_truncation,
    clippy::struct_excessive_bools,
    reason = "small numbers, and what a world has or has not"
)]

mod driver;
mod k;
mod like;
mod setup;
mod steps;
mod tests;
mod world;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use setup::Setup;
use steps::{Step, What, steps};
use world::State;

/// The first story that breaks, or how large the world is.
#[derive(Debug)]
enum Outcome {
    Broken(Vec<What>),
    Holds(Size),
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    states: usize,
    depth: usize,
    hits: u64,
}

/// Multiply and rotate, which over small numbers is as good as anything, and quick.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 =
            (self.0.rotate_left(7) ^ value.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    }
}

/// Of what is a hash already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are hashes");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// States by hash: each with the one it was reached from, and by which of its steps. Of thirty
/// million states, two have the same hash with a chance of 2 in 100,000.
type Known = HashMap<u64, (u64, u16), BuildHasherDefault<Same>>;

fn hash(state: &State) -> u64 {
    let mut mix = Mix::default();
    state.hash(&mut mix);
    mix.finish()
}

fn explore(setup: &Setup) -> Outcome {
    let start = State::start(setup);
    let first = hash(&start);
    let mut known = Known::default();
    known.insert(first, (first, 0));
    let mut size = Size::default();
    let mut front = vec![(first, start)];
    while !front.is_empty() {
        let mut next = Vec::new();
        for (from, state) in front {
            let from_here = steps(setup, &state);
            size.hits += from_here.hits;
            if let Some(broken) = from_here.broken {
                let mut story = story(setup, &known, first, from);
                story.push(broken);
                return Outcome::Broken(story);
            }
            for (at, Step { state, .. }) in (0..).zip(from_here.next) {
                let to = hash(&state);
                known.entry(to).or_insert_with(|| {
                    next.push((to, state));
                    (from, at)
                });
            }
        }
        front = next;
        size = Size { states: known.len(), depth: size.depth + 1, ..size };
    }
    Outcome::Holds(size)
}

/// The steps from the start to one state.
fn story(setup: &Setup, known: &Known, first: u64, last: u64) -> Vec<What> {
    let (mut way, mut at) = (Vec::new(), last);
    while at != first {
        let (from, step) = known[&at];
        way.push(step);
        at = from;
    }
    let (mut state, mut story) = (State::start(setup), Vec::new());
    for step in way.into_iter().rev() {
        let step = steps(setup, &state).next.swap_remove(step.into());
        story.push(step.what);
        state = step.state;
    }
    story
}
