//! Situations made on purpose, each aimed at one step that keeps answers right. One thread each,
//! with several connections; what is judged is still only what clients saw.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::clients::{Random, World};
use crate::oracle::{Door, Floor};
use crate::schema::{Cell, EMPTIED, Shows, TENANTS};
use crate::wire::{self, Answer, Connection};

type Race = fn(&World) -> io::Result<()>;

pub(crate) const RACES: &[(&str, Race)] = &[
    ("bind_then_commit_then_execute", bind_then_commit_then_execute),
    ("commit_under_a_slow_read", commit_under_a_slow_read),
    ("behind_a_blocked_read", behind_a_blocked_read),
    ("visible_before_acknowledged", visible_before_acknowledged),
    ("acknowledged_then_read_elsewhere", acknowledged_then_read_elsewhere),
    ("one_text_two_roles", one_text_two_roles),
    ("grant_and_revoke", grant_and_revoke),
    ("tenants", tenants),
    ("temporary_tables", temporary_tables),
    ("many_texts", many_texts),
];

pub(crate) fn read(
    world: &World,
    cell: &Cell,
    connection: &mut Connection,
    sql: &str,
    way: &str,
) -> io::Result<()> {
    let floor = cell.register.floor();
    let answer = connection.simple(sql)?;
    finish(world, cell, floor, &answer, way);
    Ok(())
}

pub(crate) fn finish(world: &World, cell: &Cell, floor: Floor, answer: &Answer, way: &str) {
    if let Some(value) = world.judge(cell, floor, answer, way) {
        cell.register.shown(value);
    }
}

/// Versions of all races: a race that starts again goes on where it was.
pub(crate) fn version() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn write(
    cell: &Cell,
    kind: &'static str,
    connection: &mut Connection,
    n: i64,
) -> io::Result<()> {
    cell.register.writing(kind);
    let answer = connection.simple(&format!("UPDATE {} SET v = {n} WHERE v < {n}", cell.name))?;
    if answer.error.is_none() {
        cell.register.acked(n);
    }
    Ok(())
}

/// The snapshot is taken at Bind; a stamp taken at Execute would bless what it saw.
fn bind_then_commit_then_execute(world: &World) -> io::Result<()> {
    let cell = Cell::new("stamp", Shows::Value);
    let (mut slow, mut writer, mut reader) = (world.open()?, world.open()?, world.open()?);
    while world.running() {
        for text in &cell.texts {
            let n = version();
            write(&cell, "before Bind", &mut writer, n)?;
            let floor = cell.register.floor();
            slow.send(&[wire::parse("", text), wire::bind("", &[]), wire::flush()].concat())?;
            slow.wait_for(b'T')?;
            write(&cell, "between Bind and Execute", &mut writer, version())?;
            slow.send(&[wire::execute(), wire::sync()].concat())?;
            let answer = slow.answer()?;
            finish(world, &cell, floor, &answer, "Execute long after Bind");
            for _ in 0..2 {
                let floor = cell.register.floor();
                let answer = reader.extended(text, &[])?;
                finish(world, &cell, floor, &answer, "extended, after Execute long after Bind");
            }
        }
    }
    Ok(())
}

/// The answer of a read that a commit overlapped must not be kept.
fn commit_under_a_slow_read(world: &World) -> io::Result<()> {
    let cell = Cell::new("stamp_slow", Shows::Value);
    let mut direct = world.open_direct()?;
    direct.simple("CREATE TABLE IF NOT EXISTS checker.stamp_slow AS SELECT 0::bigint AS v")?;
    let (mut slow, mut writer, mut reader) = (world.open()?, world.open()?, world.open()?);
    while world.running() {
        let n = version();
        write(&cell, "before the slow read", &mut writer, n)?;
        let floor = cell.register.floor();
        slow.send(&wire::query(&cell.slow))?;
        running(world, &mut direct, "stamp_slow")?;
        write(&cell, "under the slow read", &mut writer, version())?;
        let answer = slow.answer()?;
        finish(world, &cell, floor, &answer, "slow read overlapped by a commit");
        read(
            world,
            &cell,
            &mut reader,
            &cell.slow,
            "read after a slow one overlapped by a commit",
        )?;
    }
    Ok(())
}

/// Waits until PostgreSQL is at work on a SELECT of `table`, or it is clear that it is not.
fn running(world: &World, direct: &mut Connection, table: &str) -> io::Result<()> {
    let question = format!(
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
         AND query LIKE 'SELECT%{table}%'"
    );
    for _ in 0..200 {
        if !world.running() || !direct.simple(&question)?.rows.is_empty() {
            break;
        }
    }
    Ok(())
}

/// A pipeline whose first read waits for a lock and then sees a commit; the second one, known to
/// the cache when it arrived, may not be older.
fn behind_a_blocked_read(world: &World) -> io::Result<()> {
    let cell = Cell::new("pipe", Shows::Value);
    let mut direct = world.open_direct()?;
    let (mut writer, mut piped) = (world.open()?, world.open()?);
    let group = |sql: &str| [wire::extended(sql, &[]), wire::sync()].concat();
    while world.running() {
        let n = version();
        for _ in 0..2 {
            let floor = cell.register.floor();
            let answer = piped.extended(&cell.texts[0], &[])?;
            finish(world, &cell, floor, &answer, "read before the pipeline");
        }
        cell.register.writing("under a blocked pipeline");
        writer.simple("BEGIN")?;
        writer.simple("LOCK TABLE gate IN ACCESS EXCLUSIVE MODE")?;
        writer.simple(&format!("UPDATE pipe SET v = {n} WHERE v < {n}"))?;
        let mut floor = cell.register.floor();
        let blocked = "SELECT max(pipe.v), count(*) FROM gate, pipe";
        piped.send(&[group(blocked), group(&cell.texts[0])].concat())?;
        for _ in 0..2000 {
            let waiting =
                "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'checker.gate'::regclass";
            if !direct.simple(waiting)?.rows.is_empty() {
                break;
            }
        }
        if writer.simple("COMMIT")?.error.is_none() {
            cell.register.acked(n);
        }
        for way in ["blocked read", "read behind a blocked one"] {
            let answer = piped.answer()?;
            if let Some(value) = world.judge(&cell, floor, &answer, way) {
                cell.register.shown(value);
                floor.shown = floor.shown.max(value);
            }
        }
    }
    Ok(())
}

/// Others see a commit before its writer hears of it; from then on nobody may be served older.
fn visible_before_acknowledged(world: &World) -> io::Result<()> {
    let cell = Cell::new("flight", Shows::Value);
    let (mut writer, mut watcher, mut reader) = (world.open()?, world.open()?, world.open()?);
    let emptied: Vec<_> = (0..EMPTIED).map(|number| format!("emptied{number}")).collect();
    let emptied = emptied.join(", ");
    while world.running() {
        let n = version();
        for _ in 0..2 {
            read(world, &cell, &mut reader, &cell.texts[0], "read before a commit")?;
        }
        let update = format!("UPDATE flight SET v = {n} WHERE v < {n}");
        cell.register.writing("with a late acknowledgement");
        let commit = match n % 8 {
            0 => format!(
                "BEGIN; {update}; COMMIT; SELECT count(*) FROM filler x, filler y, filler z"
            ),
            1..4 => format!("{update}; TRUNCATE {emptied}"),
            _ => {
                writer.simple("BEGIN")?;
                writer.simple(&update)?;
                writer.simple(&format!("TRUNCATE {emptied}"))?;
                "COMMIT".to_owned()
            }
        };
        writer.send(&wire::query(&commit))?;
        for _ in 0..500 {
            read(world, &cell, &mut watcher, &cell.uncached, "uncached read")?;
            read(world, &cell, &mut reader, &cell.texts[0], "read after it was shown")?;
            if cell.register.floor().shown >= n {
                break;
            }
        }
        if writer.answer()?.error.is_none() {
            cell.register.acked(n);
        }
    }
    Ok(())
}

fn acknowledged_then_read_elsewhere(world: &World) -> io::Result<()> {
    let cell = Cell::new("acked", Shows::Value);
    world
        .open_direct()?
        .simple("CREATE TABLE IF NOT EXISTS checker.acked AS SELECT 0::bigint AS v")?;
    let (mut writer, mut reader) = (world.open()?, world.open()?);
    while world.running() {
        let n = version();
        for _ in 0..2 {
            read(world, &cell, &mut reader, &cell.texts[0], "read before a write")?;
        }
        write(&cell, "acknowledged", &mut writer, n)?;
        read(world, &cell, &mut reader, &cell.texts[0], "read elsewhere at once")?;
    }
    Ok(())
}

/// The same text, read by its owner and by roles that may not, or see other rows.
fn one_text_two_roles(world: &World) -> io::Result<()> {
    let (mut owner, mut other) = (world.open()?, world.open()?);
    let (secret, own_rows) =
        ("SELECT max(v) FROM secret", "SELECT owner FROM owned ORDER BY owner");
    while world.running() {
        for _ in 0..2 {
            owner.simple(secret)?;
            owner.extended(secret, &[])?;
            world.report.read();
            world.report.read();
        }
        for role in ["checker_none", "checker_door"] {
            other.simple(&format!("SET ROLE {role}"))?;
            for answer in [other.simple(secret)?, other.extended(secret, &[])?] {
                world.report.read();
                if answer.sqlstate() != Some("42501") {
                    world.violation(&format!("{role} has no right to read and got {answer:?}"));
                }
            }
            let answer = other.simple(own_rows)?;
            if answer.rows != [[Some(role.to_owned())]] {
                world.violation(&format!("{role} sees rows that are not its own: {answer:?}"));
            }
        }
        other.simple("RESET ROLE")?;
        let answer = other.simple(secret)?;
        if answer.first() != Some(1) {
            world.violation(&format!("the owner cannot read after RESET ROLE: {answer:?}"));
        }
    }
    Ok(())
}

fn grant_and_revoke(world: &World) -> io::Result<()> {
    let door = Door::default();
    let text = "SELECT max(v) FROM door";
    let (mut owner, mut other) = (world.open()?, world.open()?);
    other.simple("SET ROLE checker_door")?;
    owner.simple("GRANT SELECT ON door TO checker_door")?;
    while world.running() {
        // Many reads a change: each change invalidates the whole database.
        for turn in 0..200 {
            let acked = door.acked();
            let answer =
                if turn % 2 == 1 { other.extended(text, &[])? } else { other.simple(text)? };
            world.report.read();
            let opened = match answer.sqlstate() {
                None => answer.first() == Some(1),
                Some("42501") => false,
                Some(sqlstate) => {
                    world.report.error(sqlstate, "door");
                    continue;
                }
            };
            if !door.allows(acked, opened) {
                world.violation(&format!("door: opened {opened} in state {acked}: {answer:?}"));
            }
        }
        let to = door.changing();
        let change = if to.is_multiple_of(2) {
            "GRANT SELECT ON door TO"
        } else {
            "REVOKE SELECT ON door FROM"
        };
        if let Some((sqlstate, message)) = owner.simple(&format!("{change} checker_door"))?.error {
            return Err(io::Error::other(format!("{change}: {sqlstate} {message}")));
        }
        door.changed(to);
    }
    Ok(())
}

/// One text, several schemas, clients that move between them.
fn tenants(world: &World) -> io::Result<()> {
    let (mut writer, mut reader) = (world.open()?, world.open()?);
    let cells: Vec<_> = (0..TENANTS).map(|_| Cell::new("items", Shows::Value)).collect();
    for (base, cell) in (0..).step_by(1_000_000).zip(&cells) {
        cell.register.acked(base);
    }
    while world.running() {
        let n = version();
        for (tenant, cell) in (0..).zip(&cells) {
            let local = n % 2 == 0;
            let set =
                format!("SET {} search_path TO tenant_{tenant}", if local { "LOCAL" } else { "" });
            if local {
                reader.simple("BEGIN")?;
            }
            reader.simple(&set)?;
            for _ in 0..2 {
                let floor = cell.register.floor();
                let answer = reader.simple("SELECT max(v) FROM items")?;
                finish(world, cell, floor, &answer, "tenant's read");
                if answer.first().is_some_and(|value| value / 1_000_000 != tenant) {
                    world.violation(&format!("tenant {tenant} was shown {answer:?}"));
                }
            }
            if local {
                reader.simple("COMMIT")?;
            }
            writer.simple(&format!("SET search_path TO tenant_{tenant}"))?;
            write(cell, "tenant's write", &mut writer, tenant * 1_000_000 + n)?;
        }
    }
    Ok(())
}

/// A temporary table hides a real one of the same name, from its own client only.
fn temporary_tables(world: &World) -> io::Result<()> {
    let mut other = world.open()?;
    let text = "SELECT max(v) FROM shadow";
    let mut expect = |hidden: bool, hiding: &mut Connection| -> io::Result<()> {
        let seen = [other.simple(text)?.first(), hiding.simple(text)?.first()];
        world.report.read();
        world.report.read();
        let expected = [Some(1), Some(if hidden { -7 } else { 1 })];
        if seen != expected {
            world.violation(&format!("temporary table: saw {seen:?}, due {expected:?}"));
        }
        Ok(())
    };
    while world.running() {
        // What it leaves behind goes with its connection.
        let mut hiding = world.open()?;
        expect(false, &mut hiding)?;
        hiding
            .simple("BEGIN; CREATE TEMP TABLE shadow ON COMMIT DROP AS SELECT -7::bigint AS v")?;
        expect(true, &mut hiding)?;
        hiding.simple("COMMIT")?;
        expect(false, &mut hiding)?;
        hiding.simple("CREATE TEMP TABLE shadow AS SELECT -7::bigint AS v")?;
        expect(true, &mut hiding)?;
        hiding.simple("DROP TABLE pg_temp.shadow")?;
        expect(false, &mut hiding)?;
        for _ in 0..100 {
            expect(false, &mut hiding)?;
        }
    }
    Ok(())
}

/// More answers than the cache has room for, of many lengths: what is evicted, too long to be kept
/// or found again in Redis is still the answer to its own text, and as new as any other.
fn many_texts(world: &World) -> io::Result<()> {
    const TEXTS: usize = 60;
    let cell = Cell::new("many", Shows::Value);
    let mut random = Random::new(world.seed, TEXTS);
    let (mut writer, mut reader) = (world.open()?, world.open()?);
    while world.running() {
        // Long enough that much is evicted before it is too old, and asked for again.
        for _ in 0..400 {
            let text = random.below(TEXTS);
            let len = 20_000 + text * 997 % 50_000;
            let sql = format!("SELECT max(v), repeat('x', {len}), {text} FROM many");
            let floor = cell.register.floor();
            let answer = reader.simple(&sql)?;
            finish(world, &cell, floor, &answer, "one of many texts");
            let row = answer.rows.first().map(Vec::as_slice).unwrap_or_default();
            let [_, Some(filling), Some(number)] = row else {
                continue;
            };
            if filling.len() != len || *number != text.to_string() {
                world.violation(&format!("text {text} was answered with {number}, {len} long"));
            }
        }
        write(&cell, "of many texts", &mut writer, version())?;
    }
    Ok(())
}
