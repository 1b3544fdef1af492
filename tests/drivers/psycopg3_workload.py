"""psycopg 3: extended protocol, prepares by itself after five executions, pipelines, binary."""

import psycopg

import workload
from common import numbered_to_named, named, report


class Connection:
    def __init__(self, url):
        self.connection = psycopg.connect(url, autocommit=True)

    def query(self, sql, params):
        cursor = self.connection.execute(numbered_to_named(sql), named(params))
        return [[column.name for column in cursor.description], [list(row) for row in cursor]]

    def run(self, sql, params):
        # Without parameters psycopg sends the simple protocol, with them the extended one.
        self.connection.execute(numbered_to_named(sql) if params else sql, named(params) if params else None)

    def many(self, sql, rows):
        with self.connection.cursor() as cursor:
            cursor.executemany(numbered_to_named(sql), [named(row) for row in rows])

    def begin(self):
        # Not autocommit: BEGIN goes out with the first statement, whatever it is.
        self.connection.autocommit = False

    def commit(self):
        self.connection.commit()
        self.connection.autocommit = True

    def rollback(self):
        self.connection.rollback()
        self.connection.autocommit = True

    def failure(self, sql, params):
        try:
            self.run(sql, params)
        except psycopg.Error as error:
            return [error.sqlstate, error.diag.message_primary, error.diag.statement_position]
        return "no error"

    def close(self):
        self.connection.close()


def copy(lockstep):
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        with connection.connection.cursor() as cursor:
            with cursor.copy(lockstep.sql("COPY {s}.line (item, quantity) FROM STDIN")) as into:
                for number in range(10, 19):
                    into.write_row((number, number * 3))
            with cursor.copy(lockstep.sql("COPY (SELECT * FROM {s}.line ORDER BY id) TO STDOUT (FORMAT BINARY)")) as out:
                answers.append(b"".join(bytes(data) for data in out))
    lockstep.tally.same("COPY TO", *answers)


def server_side_cursor(lockstep):
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        with connection.connection.transaction():
            with connection.connection.cursor(name="walk") as cursor:
                cursor.itersize = 3
                cursor.execute(lockstep.sql("SELECT id, name FROM {s}.item WHERE id > %s ORDER BY id"), [2])
                answers.append([cursor.fetchone(), cursor.fetchmany(4), list(cursor)])
    lockstep.tally.same("server-side cursor", *answers)


def pipeline(lockstep):
    """Reads and a write in one pipeline: each answer as of its place in the order."""
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        read = lockstep.sql("SELECT sum(quantity), count(*) FROM {s}.line WHERE item > %s")
        with connection.connection.pipeline():
            before = connection.connection.execute(read, [3])
            connection.connection.execute(lockstep.sql("INSERT INTO {s}.line (item, quantity) VALUES (%s, %s)"), [12, 1000])
            between = connection.connection.execute(read, [3])
            connection.connection.execute(lockstep.sql("UPDATE {s}.line SET quantity = 1 WHERE item = %s"), [12])
            after = connection.connection.execute(read, [3])
            answers.append([cursor.fetchall() for cursor in (before, between, after)])
    lockstep.tally.same("pipeline", *answers)


def binary_results(lockstep):
    for _ in range(workload.REPEATS):
        answers = []
        for connection in (lockstep.ours, lockstep.twin, lockstep.witness):
            cursor = connection.connection.cursor(binary=True)
            cursor.execute(lockstep.sql("SELECT id, big, real8, amount, raw, at, ident FROM {s}.item WHERE id < %s ORDER BY id"), [9])
            answers.append(cursor.fetchall())
        lockstep.tally.same("binary", answers[0], answers[1])
        lockstep.tally.same("binary, now", answers[0], answers[2])


def nested_transactions(lockstep):
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        with connection.connection.transaction():
            connection.run(lockstep.sql("UPDATE {s}.item SET flag = true WHERE id = 13"), [])
            try:
                with connection.connection.transaction():
                    connection.run(lockstep.sql("UPDATE {s}.item SET flag = NULL"), [])
                    raise ValueError
            except ValueError:
                answers.append(connection.query(lockstep.sql("SELECT id, flag FROM {s}.item ORDER BY id"), []))
    lockstep.tally.same("nested transactions", *answers)


report(lambda: workload.run(
    Connection, "psycopg3", [copy, server_side_cursor, pipeline, binary_results, nested_transactions]))
