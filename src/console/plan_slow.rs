//! `EXPLAIN SLOW <id>`: how PostgreSQL would run a slow read now, asked on a server of the pool it
//! ran in, under the settings of its session, in a transaction that can write nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::conversation::Outcome;
use crate::admin::plan_show::{self, Plan};
use crate::gateway::Gateway;
use crate::insight::{Kept, Slow};
use crate::pool::io::Pool;
use crate::server::io::{Connection, Rows, ServerError};
use crate::server::settings::Settings;
use crate::sql::{analysis, plan};
use crate::wire::sqlstate;

/// For a server, and once more for its answer. PostgreSQL gives up planning before.
const PATIENCE: Duration = Duration::from_secs(8);

/// The plan, or why there is none. Cancel-safe: the server it asked is closed in any case, since
/// planning may have run code of the user's.
pub(super) async fn explain(gateway: &Arc<Gateway>, id: Option<u64>) -> Outcome {
    match lines(gateway, id).await {
        Ok(plan) => Outcome::Rows(plan_show::plan(&plan)),
        Err(message) => Outcome::Failed { sqlstate: sqlstate::UNDEFINED_OBJECT, message },
    }
}

async fn lines(gateway: &Arc<Gateway>, id: Option<u64>) -> Result<Plan, String> {
    let slow = id.and_then(|id| gateway.shared.insight.slow.find(id));
    let slow = slow.ok_or("no slow statement of this id is kept, use SHOW SLOW")?;
    let kept = slow.for_plan().map_err(|why| why.text().to_owned())?;
    let pool = pool_of(gateway, &slow, kept)
        .ok_or("the pool that the statement ran in is gone, paused or disabled")?;
    let acquired = pool.acquire(Some(Instant::now() + PATIENCE)).await;
    let mut lease = acquired.map_err(|_error| "no server for it could be had".to_owned())?;
    let asking = ask(&mut lease.connection, kept);
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer.map_err(|error| format!("PostgreSQL gives no plan: {error}")),
        Err(_elapsed) => Err("PostgreSQL gives no plan in time".to_owned()),
    }
}

fn pool_of(gateway: &Gateway, slow: &Slow, kept: &Kept) -> Option<Arc<Pool>> {
    {
        let pauses = gateway.pauses();
        if pauses.is_paused(&slow.database) || pauses.is_disabled(&slow.database) {
            return None;
        }
    }
    let mut pools = gateway.pools().into_iter().map(|opened| opened.pool);
    pools.find(|pool| *pool.name == *slow.database && *pool.common.user == *kept.server_user)
}

async fn ask(connection: &mut Connection, kept: &Kept) -> Result<Plan, ServerError> {
    connection.assume(&Settings::intern(kept.settings.clone())).await?;
    connection.query(&plan::opening()).await?;
    let explain = if kept.parameters > 0 {
        let declared = match analysis::type_names(&kept.types) {
            Some(sql) => first_column(connection.query(&sql).await?),
            None => Vec::new(),
        };
        connection.query(&plan::prepare(&kept.text, &declared)).await?;
        plan::explain_prepared(kept.parameters)
    } else {
        plan::explain(&kept.text)
    };
    let lines = first_column(connection.query(&explain).await?);
    connection.query("ROLLBACK").await?;
    Ok(lines)
}

fn first_column(answers: Vec<Rows>) -> Vec<String> {
    answers.into_iter().flatten().filter_map(|row| row.into_iter().next()?).collect()
}
