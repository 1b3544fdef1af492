//! PostgreSQL is not asked what was written while it takes longer to tell than is wanted, and is
//! again once it does not.

use crate::support::forebay::Forebay;
use crate::support::postgres::Postgres;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE a (v int); CREATE TABLE b (v int);
    INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);
    CREATE FUNCTION wr() RETURNS int LANGUAGE sql AS 'UPDATE a SET v = v + 1; SELECT 7'";
const READ: &str = "SELECT v FROM b";

/// So many locks take PostgreSQL some ten milliseconds to list on any machine.
const LOCKS: &str = "SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 20000) AS n";

fn toml(median_max: &str) -> String {
    format!("[cache]\nopaque_writes = \"ask\"\nask_median_max = \"{median_max}\"\n")
}

#[test]
fn what_takes_longer_to_tell_than_is_wanted_is_not_asked() {
    let postgres = Postgres::private("max_locks_per_transaction = 512");
    let database = postgres.database();
    database.direct().run(TABLES);
    let mut holder = database.direct();
    holder.run("BEGIN");
    holder.run(LOCKS);
    let forebay = Forebay::with_config(&database, &toml("10s"), &[]);
    let (mut writer, mut reader) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    let mut write = || {
        let before = counters(&forebay);
        assert_eq!(writer.one("SELECT wr()"), "7");
        let after = counters(&forebay);
        (after[0] - before[0], after[1] - before[1])
    };
    for _ in 0..10 {
        assert_eq!(write(), (1, 0));
    }
    assert!(database.is_hit(&mut reader, READ), "asked, and yet all was made fresh");
    forebay.reload(&toml("1ms"));
    // Now and then it is tried all the same.
    wait_until("it is not asked", || write() == (0, 1));
    assert!(!database.is_hit(&mut reader, READ), "not asked, and yet not all was made fresh");
    forebay.reload(&toml("10s"));
    database.until_hit(&mut reader, READ);
    assert_eq!(write(), (1, 0));
    assert!(database.is_hit(&mut reader, READ));
}

/// How often PostgreSQL was asked, and was not for taking too long.
fn counters(forebay: &Forebay) -> [u64; 2] {
    let mut console = forebay.console();
    ["asked", "database_slow"].map(|name| console.column("SHOW CACHE", name).parse().unwrap())
}
