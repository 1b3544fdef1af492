//! PostgreSQL is not asked what was written while it takes long to tell, and is again once it
//! does not.

use crate::support::forebay::Forebay;
use crate::support::postgres::Postgres;
use crate::support::raw::RawClient;
use crate::support::wait_until;

const TABLES: &str = "CREATE TABLE a (v int); CREATE TABLE b (v int);
    INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);
    CREATE FUNCTION wr() RETURNS int LANGUAGE sql AS 'UPDATE a SET v = v + 1; SELECT 7'";
const READ: &str = "SELECT v FROM b";

/// So many locks take PostgreSQL some hundred milliseconds to list, and a loaded machine does not
/// take that long without them.
const LOCKS: &str = "SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 200000) AS n";
const TOML: &str = "[cache]\nask_median_max = \"50ms\"\nopaque_writes = \"ask\"\n";

#[test]
fn what_takes_long_to_tell_is_not_asked_until_it_no_longer_does() {
    let postgres = Postgres::private("max_locks_per_transaction = 4096");
    let database = postgres.database();
    database.direct().run(TABLES);
    let forebay = Forebay::with_config(&database, TOML, &[]);
    let (mut writer, mut reader) = (forebay.client(), forebay.client());
    database.until_hit(&mut reader, READ);
    let mut write = || {
        let before = counters(&forebay);
        assert_eq!(writer.one("SELECT wr()"), "7");
        let after = counters(&forebay);
        (after[0] - before[0], after[1] - before[1])
    };
    assert_eq!(write(), (1, 0));
    let mut holder: RawClient = database.direct();
    holder.run("BEGIN");
    holder.run(LOCKS);
    wait_until("it takes too long", || write() == (0, 1));
    // Nobody knows what was written, so nothing is kept.
    database.until_hit(&mut reader, READ);
    wait_until("it is not asked", || write() == (0, 1));
    assert!(!database.is_hit(&mut reader, READ));
    holder.run("COMMIT");
    wait_until("it is asked three times running", || (0..3).all(|_| write() == (1, 0)));
    database.until_hit(&mut reader, READ);
    assert_eq!(write(), (1, 0));
    assert!(database.is_hit(&mut reader, READ));
}

/// How often PostgreSQL was asked, and was not for taking too long.
fn counters(forebay: &Forebay) -> [u64; 2] {
    let mut console = forebay.console();
    ["asked", "database_slow"].map(|name| console.column("SHOW CACHE", name).parse().unwrap())
}
