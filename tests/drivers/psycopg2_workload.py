"""psycopg 2: the driver of most Django and SQLAlchemy installations; simple protocol only."""

import io

import psycopg2
import psycopg2.extras

import workload
from common import numbered_to_named, named, report

psycopg2.extras.register_uuid()


class Connection:
    def __init__(self, url):
        self.connection = psycopg2.connect(url)
        # Its default opens a transaction before every statement; begin() goes back to that.
        self.connection.autocommit = True

    def cursor(self, sql, params):
        cursor = self.connection.cursor()
        cursor.execute(numbered_to_named(sql), named(params))
        return cursor

    def query(self, sql, params):
        with self.cursor(sql, params) as cursor:
            names = [column.name for column in cursor.description]
            rows = [[bytes(v) if isinstance(v, memoryview) else v for v in row] for row in cursor]
            return [names, rows]

    def run(self, sql, params):
        self.cursor(sql, params).close()

    def many(self, sql, rows):
        with self.connection.cursor() as cursor:
            cursor.executemany(numbered_to_named(sql), [named(row) for row in rows])

    def begin(self):
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
        except psycopg2.Error as error:
            return [error.pgcode, error.diag.message_primary, error.diag.statement_position]
        return "no error"

    def close(self):
        self.connection.close()


def copy(lockstep):
    text = "".join(f"{number}\t{number * 3}\n" for number in range(10, 19))
    for connection in (lockstep.ours, lockstep.twin):
        with connection.connection.cursor() as cursor:
            cursor.copy_expert(lockstep.sql("COPY {s}.line (item, quantity) FROM STDIN"), io.StringIO(text))
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        with connection.connection.cursor() as cursor:
            out = io.StringIO()
            cursor.copy_expert(lockstep.sql("COPY (SELECT * FROM {s}.line ORDER BY id) TO STDOUT CSV HEADER"), out)
            answers.append(out.getvalue())
    lockstep.tally.same("COPY TO", *answers)


def server_side_cursor(lockstep):
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        connection.begin()
        with connection.connection.cursor(name="walk") as cursor:
            cursor.itersize = 3
            cursor.execute(lockstep.sql("SELECT id, name FROM {s}.item ORDER BY id"))
            answers.append([cursor.fetchone(), cursor.fetchmany(4), list(cursor)])
        connection.commit()
    lockstep.tally.same("server-side cursor", *answers)


def many_values(lockstep):
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        with connection.connection.cursor() as cursor:
            answers.append(psycopg2.extras.execute_values(
                cursor, lockstep.sql("INSERT INTO {s}.line (item, quantity) VALUES %s RETURNING item, quantity"),
                [(7, number) for number in range(150)], fetch=True))
            psycopg2.extras.execute_batch(
                cursor, lockstep.sql("UPDATE {s}.line SET quantity = quantity + %s WHERE item = %s"),
                [(number, 7) for number in range(30)])
    lockstep.tally.same("execute_values", *answers)


def notices(lockstep):
    answers = []
    for connection in (lockstep.ours, lockstep.twin):
        del connection.connection.notices[:]
        connection.run(lockstep.sql("DROP TABLE IF EXISTS {s}.never_there"), [])
        answers.append(list(connection.connection.notices))
    lockstep.tally.same("notices", *answers)


report(lambda: workload.run(Connection, "psycopg2", [copy, server_side_cursor, many_values, notices]))
