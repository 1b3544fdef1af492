//! What is worth asking again, in the Redis that a group has in common: for who is started anew.

use std::time::Duration;

use redis::{Cmd, FromRedisValue};

use crate::cache::group::shared::Group;
use crate::cache::sealed::shared::{LIST_BYTES_MAX, SharedSeal};
use crate::cache::warm::{Recipe, list};

use super::Redis;

/// Kept without anybody who writes it: as long as a deployment may take.
const LIFE: Duration = Duration::from_hours(24);

impl Redis {
    /// What lies there for this database; `None` if that cannot be told now.
    /// Takes no longer than the time-out.
    pub async fn read_list(&self, group: &Group) -> Option<Vec<Recipe>> {
        let sharing = self.sharing.as_ref().filter(|_| self.is_where(group))?;
        let k = group.name()?;
        // Not GET: whatever somebody put there, no more than a list's bytes are read.
        let mut command = redis::cmd("GETRANGE");
        command.arg(SharedSeal::list_name(&k)).arg(0).arg(SharedSeal::list_sealed_bytes_max());
        let sealed: Vec<u8> = self.one(&command).await?;
        if sealed.is_empty() {
            return Some(Vec::new());
        }
        let opened = sharing.seal.open_list(&k, &sealed).ok();
        let Some(recipes) = opened.and_then(|body| list::decode(&body)) else {
            self.counters.forged.one();
            tracing::warn!("list in redis is not what a member stored, ignored");
            return Some(Vec::new());
        };
        Some(recipes)
    }

    /// The first of these, as many as fit; `None` if they were not, or perhaps not, stored.
    /// Takes no longer than the time-out.
    pub async fn write_list(&self, group: &Group, recipes: &[Recipe]) -> Option<()> {
        let sharing = self.sharing.as_ref().filter(|_| self.is_where(group))?;
        let k = group.name()?;
        let sealed = sharing.seal.seal_list(&k, list::encode(recipes, LIST_BYTES_MAX))?;
        let mut command = redis::cmd("SET");
        command.arg(SharedSeal::list_name(&k)).arg(sealed).arg("EX").arg(LIFE.as_secs());
        self.one::<String>(&command).await.map(drop)
    }

    async fn one<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let mut connection = self.connection()?;
        match self.ask(command, &mut connection).await {
            Ok(reply) => {
                self.link().breaker.succeeded();
                Some(reply)
            }
            Err(failure) => {
                self.failed(failure);
                None
            }
        }
    }
}
