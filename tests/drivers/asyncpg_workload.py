"""asyncpg: extended protocol, binary formats, its own cache of prepared statements."""

import asyncio

import asyncpg

import workload
from common import report

LOOP = asyncio.new_event_loop()


def wait(awaitable):
    return LOOP.run_until_complete(awaitable)


class Connection:
    def __init__(self, url):
        self.connection = wait(asyncpg.connect(url))
        self.transaction = None

    def query(self, sql, params):
        rows = wait(self.connection.fetch(sql, *params))
        return [list(rows[0].keys()) if rows else [], [list(row.values()) for row in rows]]

    def run(self, sql, params):
        wait(self.connection.execute(sql, *params))

    def many(self, sql, rows):
        wait(self.connection.executemany(sql, rows))

    def begin(self):
        self.transaction = self.connection.transaction()
        wait(self.transaction.start())

    def commit(self):
        wait(self.transaction.commit())

    def rollback(self):
        wait(self.transaction.rollback())

    def failure(self, sql, params):
        try:
            self.run(sql, params)
        except asyncpg.PostgresError as error:
            return [error.sqlstate, error.message, error.position]
        return "no error"

    def close(self):
        wait(self.connection.close())


def copy(lockstep):
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        records = [(number, number * 3) for number in range(10, 19)]
        wait(connection.connection.copy_records_to_table(
            "line", schema_name=lockstep.schema, columns=["item", "quantity"], records=records))
        out = bytearray()

        async def keep(data, out=out):
            out.extend(data)

        wait(connection.connection.copy_from_query(
            lockstep.sql("SELECT * FROM {s}.line WHERE item > $1 ORDER BY id"), 3, output=keep))
        answers.append(bytes(out))
    lockstep.tally.same("COPY TO", *answers)


def server_side_cursor(lockstep):
    """A portal read in parts: Execute with a row limit."""
    async def walk(connection):
        async with connection.transaction():
            cursor = await connection.cursor(lockstep.sql("SELECT id, name FROM {s}.item WHERE id > $1 ORDER BY id"), 2)
            first = await cursor.fetchrow()
            await cursor.forward(2)
            return [tuple(first), [tuple(row) for row in await cursor.fetch(3)], [tuple(row) for row in await cursor.fetch(100)]]

    lockstep.tally.same("portal in parts", *(wait(walk(connection.connection)) for connection in (lockstep.ours, lockstep.twin)))


def prepared_statement(lockstep):
    sql = lockstep.sql("SELECT id, numbers, words FROM {s}.item WHERE id = $1")
    statements = [wait(connection.connection.prepare(sql)) for connection in (lockstep.ours, lockstep.twin, lockstep.witness)]
    for _ in range(workload.REPEATS):
        for key in (1, 4, 21, 99):
            ours, twin, now = [[tuple(row) for row in wait(statement.fetch(key))] for statement in statements]
            lockstep.tally.same("prepared", ours, twin)
            lockstep.tally.same("prepared, now", ours, now)
        lockstep.run("UPDATE {s}.item SET numbers = numbers || 1 WHERE id = 4")


def nested_transactions(lockstep):
    async def nest(connection):
        async with connection.transaction():
            await connection.execute(lockstep.sql("UPDATE {s}.item SET flag = true WHERE id = 13"))
            try:
                async with connection.transaction():
                    await connection.execute(lockstep.sql("UPDATE {s}.item SET flag = NULL"))
                    raise ValueError
            except ValueError:
                rows = await connection.fetch(lockstep.sql("SELECT id, flag FROM {s}.item ORDER BY id"))
                return [tuple(row) for row in rows]

    lockstep.tally.same("nested transactions", *(wait(nest(connection.connection)) for connection in (lockstep.ours, lockstep.twin)))


report(lambda: workload.run(Connection, "asyncpg", [copy, server_side_cursor, prepared_statement, nested_transactions]))
