//! Who may work: PAUSE, SUSPEND, KILL, DISABLE and their opposites, and what PgBouncer says when
//! one of them makes no sense now.
//!
//! ```text
//! Active ── PAUSE, SIGUSR1 ──→ Paused
//!    │ ↖───── RESUME, SIGUSR2 ───┘
//!    ├── SUSPEND ──→ Suspended ── RESUME, SIGUSR2, the console has gone ──→ Active
//! ```
//!
//! Beside it each database may be paused (by PAUSE or KILL of its own) or disabled.

use std::collections::BTreeSet;

use crate::pool::state::Hold;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Active,
    Paused,
    Suspended,
}

/// Everything of it; the names are those that clients use.
#[derive(Debug, Default)]
pub struct Pauses {
    activity: Activity,
    paused: BTreeSet<String>,
    disabled: BTreeSet<String>,
}

const ALREADY: &str = "already suspended/paused";

impl Pauses {
    pub fn pause(&mut self) -> Result<(), &'static str> {
        self.begin(Activity::Paused)
    }

    pub fn pause_database(&mut self, name: &str) -> Result<(), &'static str> {
        self.must_be_active()?;
        self.paused.insert(name.to_owned());
        Ok(())
    }

    /// Flushing what is under way would never end for a database that is paused.
    pub fn suspend(&mut self) -> Result<(), &'static str> {
        self.must_be_active()?;
        if !self.paused.is_empty() {
            return Err("cannot suspend with paused databases");
        }
        self.begin(Activity::Suspended)
    }

    /// Gives what it resumed from. Databases paused one by one stay so.
    pub fn resume(&mut self) -> Result<Activity, &'static str> {
        match std::mem::take(&mut self.activity) {
            Activity::Active => Err("pooler is not paused/suspended"),
            was @ (Activity::Paused | Activity::Suspended) => Ok(was),
        }
    }

    pub fn resume_database(&mut self, name: &str) -> Result<(), String> {
        let was = self.paused.remove(name);
        was.then_some(()).ok_or_else(|| format!("database {name} is not paused"))
    }

    pub fn disable(&mut self, name: &str) {
        self.disabled.insert(name.to_owned());
    }

    pub fn enable(&mut self, name: &str) {
        self.disabled.remove(name);
    }

    pub fn activity(&self) -> Activity {
        self.activity
    }

    pub fn is_paused(&self, name: &str) -> bool {
        self.paused.contains(name)
    }

    pub fn is_disabled(&self, name: &str) -> bool {
        self.disabled.contains(name)
    }

    /// What keeps the clients of this database from getting servers.
    pub fn hold(&self, name: &str) -> Option<Hold> {
        match self.activity {
            Activity::Paused => Some(Hold::Paused),
            Activity::Suspended => Some(Hold::Suspended),
            Activity::Active => self.is_paused(name).then_some(Hold::Paused),
        }
    }

    fn begin(&mut self, activity: Activity) -> Result<(), &'static str> {
        self.must_be_active()?;
        self.activity = activity;
        Ok(())
    }

    pub fn must_be_active(&self) -> Result<(), &'static str> {
        (self.activity == Activity::Active).then_some(()).ok_or(ALREADY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_holds_every_database_until_it_is_resumed() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.hold("app"), None);
        pauses.pause().unwrap();
        assert_eq!(pauses.hold("app"), Some(Hold::Paused));
        assert_eq!(pauses.pause(), Err("already suspended/paused"));
        assert_eq!(pauses.suspend(), Err("already suspended/paused"));
        assert_eq!(pauses.pause_database("app"), Err("already suspended/paused"));
        assert_eq!(pauses.resume(), Ok(Activity::Paused));
        assert_eq!(pauses.hold("app"), None);
        assert_eq!(pauses.resume(), Err("pooler is not paused/suspended"));
    }

    #[test]
    fn a_database_paused_by_itself_stays_so_when_all_are_resumed() {
        let mut pauses = Pauses::default();
        pauses.pause_database("app").unwrap();
        assert_eq!((pauses.hold("app"), pauses.hold("other")), (Some(Hold::Paused), None));
        pauses.pause().unwrap();
        pauses.resume().unwrap();
        assert_eq!(pauses.hold("app"), Some(Hold::Paused));
        assert_eq!(pauses.resume_database("app"), Ok(()));
        assert_eq!(pauses.resume_database("app"), Err("database app is not paused".into()));
    }

    #[test]
    fn a_suspension_keeps_servers_and_needs_every_database_at_work() {
        let mut pauses = Pauses::default();
        pauses.pause_database("app").unwrap();
        assert_eq!(pauses.suspend(), Err("cannot suspend with paused databases"));
        pauses.resume_database("app").unwrap();
        pauses.suspend().unwrap();
        assert_eq!(pauses.hold("app"), Some(Hold::Suspended));
        assert_eq!(pauses.resume(), Ok(Activity::Suspended));
    }

    #[test]
    fn a_disabled_database_is_not_held() {
        let mut pauses = Pauses::default();
        pauses.disable("app");
        assert!(pauses.is_disabled("app") && pauses.hold("app").is_none());
        pauses.enable("app");
        assert!(!pauses.is_disabled("app"));
    }
}
