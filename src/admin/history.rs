//! Counters as they were, so that averages can be told: two pictures, a period apart.
//!
//! As in PgBouncer an average spans from the older picture to now, so between one period and two.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::stats_show::{Span, Totals};

/// Database and user.
pub type PoolName = (String, String);

#[derive(Debug)]
pub struct History {
    older: Arc<Picture>,
    newer: Arc<Picture>,
}

#[derive(Debug)]
pub struct Picture {
    at: Instant,
    /// A pool that is not in it had counted nothing yet.
    totals: HashMap<PoolName, Totals>,
}

impl History {
    pub fn new(now: Instant) -> Self {
        let nothing = Arc::new(Picture { at: now, totals: HashMap::new() });
        Self { older: Arc::clone(&nothing), newer: nothing }
    }

    /// A period has passed; what was counted in it, of the pools that are there. One that has gone
    /// takes nothing away from what the others did.
    pub fn turn(&mut self, now: Instant, totals: HashMap<PoolName, Totals>) -> Span {
        let of_pool = |(name, totals): (&PoolName, &Totals)| self.newer.span(name, *totals, now);
        let span = totals.iter().map(of_pool).fold(Span::default(), Span::plus);
        self.older = std::mem::replace(&mut self.newer, Arc::new(Picture { at: now, totals }));
        span
    }

    /// What averages span from, the same for all pools that are shown together.
    pub fn older(&self) -> Arc<Picture> {
        Arc::clone(&self.older)
    }
}

impl Picture {
    /// From this picture to now.
    pub fn span(&self, pool: &PoolName, totals: Totals, now: Instant) -> Span {
        let old = self.totals.get(pool).copied().unwrap_or_default();
        Span { totals, change: totals.since(old), period: now.saturating_duration_since(self.at) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn averages_span_at_least_one_period() {
        let start = Instant::now();
        let pool = ("app".to_owned(), "ann".to_owned());
        let totals = |query| Totals { query, ..Totals::default() };
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::new(start);
        let average = |history: &History, pool: &PoolName, totals: Totals, now: Instant| {
            history.older().span(pool, totals, now).average()
        };
        assert_eq!(average(&history, &pool, totals(20), at(10)).query, 2);
        history.turn(at(60), HashMap::from([(pool.clone(), totals(60))]));
        assert_eq!(average(&history, &pool, totals(70), at(70)).query, 1);
        history.turn(at(120), HashMap::from([(pool.clone(), totals(100))]));
        // From the picture at 60 on.
        assert_eq!(average(&history, &pool, totals(360), at(160)).query, 3);
        let new = ("new".into(), "ann".into());
        assert_eq!(average(&history, &new, totals(200), at(160)).query, 2);
    }

    #[test]
    fn a_pool_that_goes_takes_nothing_from_what_others_did() {
        let start = Instant::now();
        let pool = |name: &str, query| {
            (("app".to_owned(), name.to_owned()), Totals { query, ..Totals::default() })
        };
        let mut history = History::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        history.turn(at(10), HashMap::from([pool("ann", 1000), pool("bob", 10)]));
        let span = history.turn(at(20), HashMap::from([pool("bob", 30), pool("cid", 20)]));
        assert_eq!(span.average().query, 4);
    }
}
