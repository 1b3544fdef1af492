//! Whether keeping the answers over one table is worth it: not while its writes end nearly all of
//! them before anybody asks again (hazard H30). Costs and hits only; what is true is for
//! `coherence` to say.
//!
//! ```text
//! kept ── a sample that was of too little use ──► cut off ── its pause is over ──► on trial
//!  ▲                                                 ▲                              │   │
//!  │                                                 └── useless again: twice as ────┘   │
//!  └── of use again ──────────────────────────────────── long a pause ──────────────────┘
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Answers whose end is known before they are judged: so few hits among so many are no chance.
const SAMPLE: u64 = 100;

/// The same for a table that was cut off before.
const TRIAL: u64 = 20;

const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_mins(5);

/// Of one table.
#[derive(Debug, Default)]
pub struct Worth {
    /// Guards what is known; nothing else is locked inside. Not touched by hits.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    /// Answers that a write of the table ended, or kept from being stored, since they were
    /// last judged; and the hits these were.
    ended: u64,
    hits: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Kept,
    CutOff {
        cut_off: CutOff,
        until: Instant,
        pause: Duration,
    },
    OnTrial {
        since: Instant,
        pause: Duration,
    },
}

/// Since when, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff {
    pub since: Instant,
    pub ended: u64,
    pub hits: u64,
}

impl Worth {
    /// A write of the table has ended an answer that had served `hits` times.
    pub fn ended(&self, hits: u64) {
        let mut state = self.lock();
        state.ended += 1;
        state.hits = state.hits.saturating_add(hits);
        if state.ended >= 10 * SAMPLE {
            // Nobody asks; what is long past counts for less.
            state.ended /= 2;
            state.hits /= 2;
        }
    }

    /// Whether an answer may be kept now. Fewer hits than `hits_min` for each hundred answers
    /// cut the table off; 0 never does.
    pub fn is_kept(&self, hits_min: u32, now: Instant) -> bool {
        let mut state = self.lock();
        if hits_min == 0 {
            *state = State::default();
            return true;
        }
        let (sample, since, pause) = match state.stage {
            Stage::Kept => (SAMPLE, now, PAUSE_MIN),
            Stage::OnTrial { since, pause } => (TRIAL, since, (pause * 2).min(PAUSE_MAX)),
            Stage::CutOff { until, .. } if now < until => return false,
            Stage::CutOff { cut_off, pause, .. } => {
                let next = Stage::OnTrial { since: cut_off.since, pause };
                *state = State { stage: next, ended: 0, hits: 0 };
                return true;
            }
        };
        if state.ended < sample {
            return true;
        }
        let (ended, hits) = (state.ended, state.hits);
        let of_use = hits.saturating_mul(100) >= ended * u64::from(hits_min);
        let cut_off = CutOff { since, ended, hits };
        let next =
            if of_use { Stage::Kept } else { Stage::CutOff { cut_off, until: now + pause, pause } };
        *state = State { stage: next, ended: 0, hits: 0 };
        of_use
    }

    /// For people.
    pub fn cut_off(&self) -> Option<CutOff> {
        match self.lock().stage {
            Stage::CutOff { cut_off, .. } => Some(cut_off),
            Stage::Kept | Stage::OnTrial { .. } => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(worth: &Worth, ended: u64, hits: u64) {
        for number in 0..ended {
            worth.ended(if number == 0 { hits } else { 0 });
        }
    }

    fn kept(worth: &Worth, start: Instant, seconds: u64) -> bool {
        worth.is_kept(5, start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_table_is_cut_off_when_a_sample_was_of_too_little_use() {
        let start = Instant::now();
        for (ended, hits, expected) in
            [(99, 0, true), (100, 5, true), (100, 4, false), (500, 25, true), (500, 24, false)]
        {
            let worth = Worth::default();
            after(&worth, ended, hits);
            assert_eq!(kept(&worth, start, 0), expected, "{ended} {hits}");
            let cut_off = (!expected).then_some(CutOff { since: start, ended, hits });
            assert_eq!(worth.cut_off(), cut_off);
        }
    }

    #[test]
    fn hits_of_one_answer_repay_many_that_had_none() {
        let worth = Worth::default();
        after(&worth, 1, 1000);
        after(&worth, 99, 0);
        assert!(kept(&worth, Instant::now(), 0));
    }

    #[test]
    fn it_is_tried_again_after_a_pause_and_comes_back_once_it_is_of_use() {
        let (worth, start) = (Worth::default(), Instant::now());
        after(&worth, 100, 0);
        assert_eq!([0, 9, 10].map(|at| kept(&worth, start, at)), [false, false, true]);
        after(&worth, 19, 0);
        assert!(kept(&worth, start, 11));
        after(&worth, 1, 1);
        assert!(kept(&worth, start, 12));
        // As if it had never been.
        after(&worth, 99, 0);
        assert!(kept(&worth, start, 13));
    }

    #[test]
    fn each_trial_in_vain_doubles_the_pause_up_to_a_bound() {
        let (worth, start) = (Worth::default(), Instant::now());
        after(&worth, 100, 0);
        assert!(!kept(&worth, start, 0));
        let mut at = 0;
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            assert!(!kept(&worth, start, at + pause - 1), "{pause}");
            at += pause;
            assert!(kept(&worth, start, at), "{pause}");
            after(&worth, 20, 0);
            assert!(!kept(&worth, start, at), "{pause}");
            assert_eq!(worth.cut_off().map(|cut_off| cut_off.since), Some(start));
        }
    }

    #[test]
    fn what_ends_while_it_is_cut_off_says_nothing_of_the_trial() {
        let (worth, start) = (Worth::default(), Instant::now());
        after(&worth, 100, 0);
        assert!(!kept(&worth, start, 0));
        after(&worth, 50, 0);
        assert!(kept(&worth, start, 10) && kept(&worth, start, 10));
    }

    #[test]
    fn without_a_bound_nothing_is_cut_off_and_what_is_comes_back() {
        let (worth, start) = (Worth::default(), Instant::now());
        after(&worth, 100, 0);
        assert!(!kept(&worth, start, 0));
        assert!(worth.is_kept(0, start));
        assert!(kept(&worth, start, 0));
    }

    #[test]
    fn what_nobody_judges_is_forgotten_by_and_by() {
        let worth = Worth::default();
        after(&worth, 100_000, 0);
        assert!(worth.lock().ended < 10 * SAMPLE);
        after(&worth, 1, 1000);
        assert!(kept(&worth, Instant::now(), 0));
    }
}
