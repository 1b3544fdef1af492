// node-postgres: the driver of most JavaScript applications; unnamed and named statements,
// cursors, COPY streams, a pool. Works in lockstep like workload.py: through Forebay and on a twin
// database, reads outside transactions also directly on the database under test.
"use strict";

const assert = require("node:assert");
const { finished, pipeline } = require("node:stream/promises");
const { Readable } = require("node:stream");
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");
const copy = require("pg-copy-streams");

const SCHEMA = "drv_node";
const REPEATS = 5;
const RUNS = 2;
const { FOREBAY_URL, DIRECT_URL } = process.env;
const TWIN_URL = process.env.TWIN_URL || DIRECT_URL.replace(/\/([^/?]+)(\?|$)/, "/$1_twin$2");
let answers = 0;

function same(label, ours, theirs) {
  answers += 1;
  assert.deepStrictEqual(ours, theirs, `DIFFERENT ${label}: ${JSON.stringify(ours)} through Forebay, ` +
    `${JSON.stringify(theirs)} from PostgreSQL`);
}

const TABLES = [
  `DROP SCHEMA IF EXISTS ${SCHEMA} CASCADE`,
  `CREATE SCHEMA ${SCHEMA}`,
  `CREATE TABLE ${SCHEMA}.item (id int PRIMARY KEY, big int8, real8 float8, amount numeric(10,2), name text,
     flag bool, raw bytea, day date, at timestamptz, doc jsonb, numbers int[], ident uuid)`,
  `CREATE TABLE ${SCHEMA}.line (id serial PRIMARY KEY, item int REFERENCES ${SCHEMA}.item ON DELETE CASCADE, quantity int)`,
];

const READS = [
  { text: `SELECT * FROM ${SCHEMA}.item ORDER BY id` },
  { text: `SELECT name, amount FROM ${SCHEMA}.item WHERE id = $1`, values: [3] },
  { text: `SELECT name, amount FROM ${SCHEMA}.item WHERE id = $1`, values: [4] },
  { name: "by-id", text: `SELECT * FROM ${SCHEMA}.item WHERE id = $1`, values: [5] },
  { name: "by-id", text: `SELECT * FROM ${SCHEMA}.item WHERE id = $1`, values: [6] },
  { name: "joined", text: `SELECT i.name, l.quantity FROM ${SCHEMA}.item i JOIN ${SCHEMA}.line l ON l.item = i.id
     WHERE l.quantity > $1 ORDER BY l.id`, values: [4] },
  { text: `SELECT flag, count(*), sum(amount) FROM ${SCHEMA}.item GROUP BY flag ORDER BY flag` },
  { text: `SELECT id FROM ${SCHEMA}.item WHERE id = ANY($1) ORDER BY id`, values: [[1, 2, 8]] },
  { text: `SELECT id FROM ${SCHEMA}.item WHERE doc @> $1`, values: [{ n: 7 }] },
  { text: `SELECT id FROM ${SCHEMA}.item WHERE raw = $1`, values: [Buffer.from([0, 9, 255])] },
  { text: `SELECT id FROM ${SCHEMA}.item WHERE at < $1 ORDER BY id`, values: [new Date("2024-03-04T00:00:00Z")] },
  { text: `SELECT id FROM ${SCHEMA}.item WHERE name = $1 OR $1 IS NULL ORDER BY id`, values: [null] },
  { text: `SELECT name FROM ${SCHEMA}.item WHERE id = 7`, rowMode: "array" },
  { text: `SELECT count(*) FROM ${SCHEMA}.line; SELECT max(quantity) FROM ${SCHEMA}.line` },
];

const ERRORS = [
  { text: "SELECT 1 / $1::int", values: [0] },
  { text: `SELECT * FROM ${SCHEMA}.missing` },
  { text: `INSERT INTO ${SCHEMA}.item (id) VALUES ($1)`, values: [1] },
  { text: "SELEKT 1" },
];

// What of an answer a client can see; several statements in one text give several answers.
function visible(result) {
  if (Array.isArray(result)) return result.map(visible);
  const fields = result.fields.map((field) => [field.name, field.dataTypeID, field.format]);
  return { command: result.command, rowCount: result.rowCount, rows: result.rows, fields };
}

class Lockstep {
  async open() {
    [this.ours, this.twin, this.now] = await Promise.all([FOREBAY_URL, TWIN_URL, DIRECT_URL].map(async (url) => {
      const client = new Client({ connectionString: url });
      await client.connect();
      return client;
    }));
    this.inTransaction = false;
  }

  async close() {
    for (const client of [this.ours, this.twin, this.now]) await client.end();
  }

  async run(text, values) {
    if (/^(BEGIN|COMMIT|ROLLBACK)$/.test(text)) this.inTransaction = text === "BEGIN";
    const [ours, twin] = [await this.ours.query(text, values), await this.twin.query(text, values)];
    same(text, visible(ours), visible(twin));
  }

  async read(query, when) {
    // node-postgres keeps state in the object it is given.
    const ours = visible(await this.ours.query({ ...query }));
    same(`${query.text} ${when}`, ours, visible(await this.twin.query({ ...query })));
    if (!this.inTransaction) same(`${query.text} ${when}, now`, ours, visible(await this.now.query({ ...query })));
  }

  async reads(when) {
    for (let turn = 0; turn < REPEATS; turn += 1) {
      for (const query of READS) await this.read(query, when);
    }
  }

  async error(query) {
    const seen = [];
    for (const client of [this.ours, this.twin]) {
      seen.push(await client.query({ ...query }).then(
        () => "no error", (error) => [error.severity, error.code, error.message, error.position, error.constraint]));
    }
    same(`error of ${query.text}`, seen[0], seen[1]);
  }
}

async function fill(lockstep) {
  for (const text of TABLES) await lockstep.run(text);
  for (let n = 1; n <= 12; n += 1) {
    await lockstep.run(
      `INSERT INTO ${SCHEMA}.item VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
      [n, `${n}000000000000`, n / 3, `${n}.50`, `näme '${n}'`, n % 2 === 0, Buffer.from([0, n, 255]), `2024-03-0${n % 9 + 1}`,
        new Date(Date.UTC(2024, 2, n)), { n }, [n, -n], `00000000-0000-0000-0000-0000000000${n + 10}`]);
    await lockstep.run(`INSERT INTO ${SCHEMA}.line (item, quantity) VALUES ($1, $2)`, [n, n * 2]);
  }
}

async function transactions(lockstep) {
  await lockstep.run("BEGIN");
  await lockstep.reads("in a transaction");
  await lockstep.run(`UPDATE ${SCHEMA}.item SET amount = 0 WHERE id = $1`, [3]);
  await lockstep.reads("after its own write");
  await lockstep.run("SAVEPOINT one");
  await lockstep.run(`DELETE FROM ${SCHEMA}.line`);
  await lockstep.run("ROLLBACK TO SAVEPOINT one");
  await lockstep.reads("after a savepoint");
  await lockstep.run("ROLLBACK");
  await lockstep.reads("after a rollback");
  await lockstep.run("BEGIN");
  await lockstep.run(`UPDATE ${SCHEMA}.item SET name = 'kept' WHERE id = $1`, [4]);
  await lockstep.run("COMMIT");
  await lockstep.reads("after a commit");
  await lockstep.run("BEGIN");
  await lockstep.error(ERRORS[0]);
  await lockstep.error({ text: `SELECT count(*) FROM ${SCHEMA}.item` });
  await lockstep.run("ROLLBACK");
}

// Queries sent without waiting for answers: node-postgres queues them, order must hold.
async function burst(lockstep) {
  const seen = [];
  for (const client of [lockstep.ours, lockstep.twin]) {
    const sum = () => client.query(`SELECT sum(quantity) AS sum FROM ${SCHEMA}.line WHERE item > $1`, [2]);
    const add = () => client.query(`UPDATE ${SCHEMA}.line SET quantity = quantity + 1 WHERE item > $1`, [2]);
    const results = await Promise.all([sum(), sum(), add(), sum(), add(), sum(), sum()]);
    seen.push(results.map((result) => [result.command, result.rows]));
  }
  same("burst", seen[0], seen[1]);
}

async function cursor(lockstep) {
  const seen = [];
  for (const client of [lockstep.ours, lockstep.twin]) {
    await client.query("BEGIN");
    const walk = client.query(new Cursor(`SELECT id, name FROM ${SCHEMA}.item WHERE id > $1 ORDER BY id`, [2]));
    const parts = [await walk.read(3), await walk.read(2), await walk.read(100), await walk.read(1)];
    await walk.close();
    await client.query("COMMIT");
    seen.push(parts);
  }
  same("cursor", seen[0], seen[1]);
}

async function copies(lockstep) {
  const seen = [];
  for (const client of [lockstep.ours, lockstep.twin]) {
    await pipeline(Readable.from(["5\t50\n6\t60\n", "7\t70\n"]),
      client.query(copy.from(`COPY ${SCHEMA}.line (item, quantity) FROM STDIN`)));
    const out = client.query(copy.to(`COPY (SELECT * FROM ${SCHEMA}.line ORDER BY id) TO STDOUT CSV`));
    const parts = [];
    out.on("data", (data) => parts.push(data));
    await finished(out);
    seen.push(Buffer.concat(parts).toString());
  }
  same("COPY", seen[0], seen[1]);
}

// Many clients at once: each reads its own writes, and after all have ended the sums agree.
async function pooled() {
  const pool = new Pool({ connectionString: FOREBAY_URL, max: 8 });
  await pool.query(`CREATE TABLE ${SCHEMA}.counter (id int PRIMARY KEY, value int)`);
  await pool.query(`INSERT INTO ${SCHEMA}.counter SELECT n, 0 FROM generate_series(1, 8) n`);
  await Promise.all(Array.from({ length: 8 }, async (_, index) => {
    for (let value = 1; value <= 20; value += 1) {
      await pool.query(`UPDATE ${SCHEMA}.counter SET value = $2 WHERE id = $1`, [index + 1, value]);
      const { rows } = await pool.query(`SELECT value FROM ${SCHEMA}.counter WHERE id = $1`, [index + 1]);
      same("own write on another connection", rows, [{ value }]);
    }
  }));
  const { rows } = await pool.query(`SELECT sum(value)::int AS sum FROM ${SCHEMA}.counter`);
  same("sum", rows, [{ sum: 160 }]);
  await pool.query(`DROP TABLE ${SCHEMA}.counter`);
  await pool.end();
}

async function main() {
  const lockstep = new Lockstep();
  await lockstep.open();
  for (let run = 0; run < RUNS; run += 1) {
    await fill(lockstep);
    await lockstep.reads("at first");
    await transactions(lockstep);
    for (const query of ERRORS) await lockstep.error(query);
    for (const step of [burst, cursor, copies, pooled]) {
      await step(lockstep);
      await lockstep.reads(`after ${step.name}`);
    }
    await lockstep.run(`DELETE FROM ${SCHEMA}.item WHERE id = $1`, [2]);
    await lockstep.reads("after a cascade");
    // PostgreSQL refuses named statements over tables made anew with other columns; reconnect.
    await lockstep.close();
    await lockstep.open();
  }
  await lockstep.run(`DROP SCHEMA ${SCHEMA} CASCADE`);
  await lockstep.close();
  console.log(`answers ${answers}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
