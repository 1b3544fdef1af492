//! Once an interval, a line in the log for each group of clients that did something: who queried,
//! and how well it was served.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use crate::admin::snapshot::Group;
use crate::admin::table::percent;
use crate::gateway::Gateway;
use crate::insight::GroupTally;

use super::collect::Collector;

/// Groups of one interval that the log tells of; the rest are counted.
const LINES_MAX: usize = 20;

type Name = (String, String, String, String);

/// When it was done last, and what each group had done then.
pub struct GroupLog {
    at: Instant,
    /// `None`: it was off, so nobody knows what was done when.
    before: Option<HashMap<Name, GroupTally>>,
}

/// What one group did meanwhile. Time in microseconds.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// User, database, application name, address.
    name: Name,
    queries: u64,
    transactions: u64,
    hits: u64,
    hit_rate: String,
    slow: u64,
    errors: u64,
    p95: u64,
}

impl GroupLog {
    pub fn new(now: Instant) -> Self {
        Self { at: now, before: Some(HashMap::new()) }
    }

    fn off(now: Instant) -> Self {
        Self { at: now, before: None }
    }

    /// Called more often than an interval is long.
    pub fn tick(&mut self, gateway: &Gateway, now: Instant) {
        let interval = gateway.config().insight.log_interval;
        if interval.is_zero() || !gateway.shared.insight.is_enabled() {
            *self = Self::off(now);
            return;
        }
        if self.before.is_some() && now.saturating_duration_since(self.at) < interval {
            return;
        }
        let (lines, untold) = self.turn(Collector::new(gateway, now).groups(), now);
        for line in lines {
            let (user, database, application_name, address) = line.name;
            tracing::info!(
                %database,
                %user,
                %application_name,
                %address,
                queries = line.queries,
                transactions = line.transactions,
                hits = line.hits,
                hit_rate = line.hit_rate,
                slow = line.slow,
                errors = line.errors,
                p95_us = line.p95,
                "clients"
            );
        }
        if untold > 0 {
            tracing::info!(groups = untold, "more clients");
        }
    }

    /// What the groups that queried most did since the last time, and how many more there were.
    /// After it was off it begins with this.
    fn turn(&mut self, groups: Vec<Group>, now: Instant) -> (Vec<Line>, usize) {
        let name = |group: Group| {
            let Group { user, database, application_name, address, tally, .. } = group;
            ((user, database, application_name, address), tally)
        };
        let tallies: HashMap<Name, GroupTally> = groups.into_iter().map(name).collect();
        let lines = self.before.as_ref().map(|before| {
            let line = |(name, tally): (&Name, &GroupTally)| line(name, tally, before.get(name));
            tallies.iter().filter_map(line).collect()
        });
        let mut lines: Vec<Line> = lines.unwrap_or_default();
        lines.sort_by(|left, right| {
            (Reverse(left.queries), &left.name).cmp(&(Reverse(right.queries), &right.name))
        });
        *self = Self { at: now, before: Some(tallies) };
        let untold = lines.len().saturating_sub(LINES_MAX);
        lines.truncate(LINES_MAX);
        (lines, untold)
    }
}

/// `None`: it did nothing.
fn line(name: &Name, tally: &GroupTally, before: Option<&GroupTally>) -> Option<Line> {
    let nothing = GroupTally::default();
    let before = before.unwrap_or(&nothing);
    let since = |count: fn(&GroupTally) -> u64| count(tally).saturating_sub(count(before));
    let (hits, misses) = (since(|tally| tally.hits), since(|tally| tally.misses));
    let line = Line {
        name: name.clone(),
        queries: since(|tally| tally.queries),
        transactions: since(|tally| tally.transactions),
        hits,
        hit_rate: percent(hits, hits.saturating_add(misses)),
        slow: since(|tally| tally.slow),
        errors: since(GroupTally::errors_count),
        p95: tally.times.since(&before.times).quantile(95),
    };
    (line.queries > 0 || line.errors > 0).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::{Outcome, Sample};

    fn group(application_name: &str, runs: &[u64]) -> Group {
        let mut tally = GroupTally::default();
        for run in runs {
            tally.add(&Sample {
                is_call: true,
                outcome: if *run < 10 { Outcome::Hit } else { Outcome::Miss },
                wait: 0,
                run: *run,
                rows: 1,
                bytes: 1,
                writes: false,
                slow: *run > 1000,
                failed: None,
            });
        }
        tally.transactions = runs.len() as u64;
        let application_name = application_name.to_owned();
        Group {
            user: "ann".into(),
            database: "app".into(),
            application_name,
            tally,
            ..Group::default()
        }
    }

    #[test]
    fn a_line_tells_what_a_group_did_since_the_last_one() {
        let now = Instant::now();
        let mut log = GroupLog::new(now);
        assert_eq!(log.turn(vec![group("web", &[2000, 2000, 2000])], now).0.len(), 1);
        let groups = vec![group("web", &[2000, 2000, 2000, 1, 1, 1, 20]), group("idle", &[])];
        let (lines, untold) = log.turn(groups, now);
        let line = Line {
            name: ("ann".into(), "app".into(), "web".into(), String::new()),
            queries: 4,
            transactions: 4,
            hits: 3,
            hit_rate: "75.0".into(),
            slow: 0,
            errors: 0,
            p95: 21,
        };
        assert_eq!((lines, untold), (vec![line], 0));
    }

    #[test]
    fn what_was_done_while_it_was_off_is_of_no_interval() {
        let now = Instant::now();
        let mut log = GroupLog::off(now);
        assert_eq!(log.turn(vec![group("web", &[1, 1, 1])], now), (vec![], 0));
        let (lines, _) = log.turn(vec![group("web", &[1, 1, 1, 1])], now);
        assert_eq!(lines.iter().map(|line| line.queries).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn the_groups_that_query_most_are_told_and_the_rest_counted() {
        let now = Instant::now();
        let groups: Vec<Group> = (0..LINES_MAX + 5)
            .map(|number| group(&number.to_string(), &vec![1; number + 1]))
            .collect();
        let (lines, untold) = GroupLog::new(now).turn(groups, now);
        assert_eq!((lines.len(), untold), (LINES_MAX, 5));
        assert_eq!((lines[0].queries, lines[LINES_MAX - 1].queries), (25, 6));
    }
}
