//! What a simulation does to a group to see what a part of the protocol is good for
//! (`tests/simulation/group`).

use super::member::{Member, Safeguard};
use super::shared::Group;

impl Group {
    /// The same one without this; before it has joined.
    #[must_use]
    pub fn without(mut self, safeguard: Safeguard) -> Self {
        self.rules.without = Some(safeguard);
        self.state().member = Member::new(self.id, self.rules.clone());
        self
    }
}
