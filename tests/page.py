"""The page in a browser: what it shows against what the console shows, by keyboard and on a phone.

  tests/page.py HTTP_URL CONSOLE_URL DATABASE_URL PSQL FOREBAY_PID [DIRECTORY]

Drives headless Chromium by its debugging protocol over a pipe. With DIRECTORY it leaves screenshots
there. tests/page.sh starts all that this needs.
"""

import base64
import csv
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HTTP, CONSOLE, DATABASE, PSQL, PID = sys.argv[1:6]
SHOTS = Path(sys.argv[6]) if len(sys.argv) > 6 else None
DEADLINE = 30
TABS = ["statements", "repeats", "slow", "tables", "reasons", "clients", "pools", "databases"]
PHONE, DESKTOP = (360, 740), (1280, 900)
COUNT = 0


def check(claim, holds, seen=""):
    global COUNT
    COUNT += 1
    if not holds:
        sys.exit(f"page: not so: {claim} {seen}")


class Browser:
    """One page of it; every call is a round trip."""

    def __init__(self, profile):
        from_us, to_us = os.pipe(), os.pipe()

        # Out of the way of the two numbers that the browser reads and writes.
        reads, writes = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (from_us[0], to_us[1]))

        def become():
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        program = next(name for name in ("chromium", "chromium-browser", "google-chrome")
                       if subprocess.run(["which", name], capture_output=True).returncode == 0)
        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=become, close_fds=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (from_us[0], to_us[1], reads, writes):
            os.close(fd)
        self.out, self.input, self.buffer, self.next = from_us[1], to_us[0], b"", 1
        self.session, self.faults = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number, self.next = self.next, self.next + 1
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == number:
                if "error" in answer:
                    sys.exit(f"page: {method}: {answer['error']}")
                return answer["result"]
            self.note(answer)

    def read(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.input, 1 << 20)
            if not piece:
                sys.exit("page: the browser is gone")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def note(self, event):
        """Whatever a developer would see in red."""
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith((HTTP, "data:", "about:")):
                self.faults.append(f"asked for {url}")

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            sys.exit(f"page: {script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, claim, script):
        end = time.monotonic() + DEADLINE
        while not self.run(script):
            check(claim, time.monotonic() < end, self.run("document.body.innerText.slice(0, 2000)"))

    def open(self, path, size, dark=False):
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=HTTP + path)
        self.until(f"{path} is drawn", "Number(document.body?.dataset.looks) > 0")

    def look(self):
        """Once more, begun after now."""
        self.run("look()")

    def key(self, name, code, text=None):
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, windowsVirtualKeyCode=code,
                  **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=code)

    def shot(self, name):
        if SHOTS:
            SHOTS.mkdir(parents=True, exist_ok=True)
            data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
            (SHOTS / f"{name}.png").write_bytes(base64.b64decode(data))

    def table(self):
        """Rows of texts by the labels of their columns."""
        return json.loads(self.run("""JSON.stringify([...document.querySelectorAll("#rows tr")].map((row) =>
            Object.fromEntries([...row.cells].map((cell) =>
                [cell.dataset.label, cell.dataset.sql ?? cell.textContent]))))"""))

    def close(self):
        self.process.kill()
        self.process.wait()


def console(sql):
    done = subprocess.run([PSQL, "-X", "--csv", CONSOLE, "-c", sql], capture_output=True, text=True, check=True)
    return list(csv.DictReader(io.StringIO(done.stdout)))


def run(*statements, application="web"):
    environment = {**os.environ, "PGAPPNAME": application}
    script = ";\n".join(statements) + ";\n"
    subprocess.run([PSQL, "-X", "-q", "-o", "/dev/null", DATABASE], input=script, text=True, check=True,
                   env=environment, stderr=subprocess.DEVNULL)


def number(text):
    return int(text.replace(",", ""))


def nothing_wrong(browser, where):
    check(f"{where}: nothing fails in the browser", not browser.faults, browser.faults)


def fits(browser, where, size):
    # Not innerWidth: on a phone the window grows with what is in it.
    width = browser.run("document.documentElement.scrollWidth")
    check(f"{where}: nothing is wider than the window", width <= size[0], f"{width} in {size[0]}")


CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => rgb(text).slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((rgb(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const own = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  let worst = [99, ""];
  for (const node of document.querySelectorAll("body *")) {
    if (!own(node) || !node.getClientRects().length || /SCRIPT|OPTION/.test(node.tagName)) continue;
    const [one, other] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 120)];
  }
  return JSON.stringify(worst);
})()"""


def readable(browser, where):
    ratio, node = json.loads(browser.run(CONTRAST))
    check(f"{where}: every text stands out from its ground", ratio >= 4.5, f"{ratio:.2f} {node}")


def empty(browser):
    browser.open("/", DESKTOP)
    browser.shot("empty-desktop")
    for tab in TABS:
        browser.open(f"/#{tab}", PHONE)
        check(f"{tab} has a title", browser.run("document.querySelector('#title').textContent.length > 3"))
        cells = browser.run("document.querySelectorAll('#rows td').length")
        check(f"{tab}, empty, says so", cells > 0)
        fits(browser, f"{tab}, empty", PHONE)
    browser.open("/", PHONE)
    browser.shot("empty-phone")
    nothing_wrong(browser, "empty")


def load():
    run("CREATE TABLE IF NOT EXISTS shop (id int PRIMARY KEY, name text, price numeric)",
        "INSERT INTO shop SELECT i, 'thing ' || i, i FROM generate_series(1, 500) i ON CONFLICT DO NOTHING")
    run("SELECT name FROM shop WHERE id = 1", "SELECT count(*) FROM shop")
    for _ in range(3):
        run(*[f"SELECT name, price FROM shop WHERE id = {i % 7}" for i in range(40)], "SELECT count(*) FROM shop",
            "SELECT now()", application="shop-web")
    run("UPDATE shop SET price = price + 1 WHERE id = 3", "SELECT count(*) FROM shop", "SELECT nothing",
        "SELECT pg_sleep(0.6)", application="billing")
    run("SELECT name FROM shop WHERE name <> '" + "x" * 50 + "' AND " +
        " AND ".join(f"price <> {i}" for i in range(60)), application='<img src=x onerror="window.hurt=1">')
    run('SELECT 1 AS "<script>window.hurt=1</script>"', application="odd")


def agrees(browser):
    browser.open("/#statements", DESKTOP)
    rows = {row["Statement"]: row for row in browser.table()}
    shown = {row["statement"]: row for row in console("SHOW STATEMENTS")}
    check("every statement is shown", set(rows) == set(shown), set(rows) ^ set(shown))
    for text, row in shown.items():
        check(f"calls of {text[:60]}", number(rows[text]["Calls"]) == int(row["calls"]), rows[text])
        check(f"hit rate of {text[:60]}", rows[text]["Hit rate"].split("\u202f")[0] == row["hit_rate"], rows[text])
        check(f"reason of {text[:60]}", rows[text]["Never cached because"] == row["never_cached"], rows[text])
    browser.shot("statements-desktop")

    browser.open("/#reasons", DESKTOP)
    for row, seen in zip(console("SHOW CACHE_REASONS ORDER BY count"), browser.table()):
        check(f"reason {row['reason']}", (seen["Reason"], number(seen["Statements"])) == (row["reason"], int(row["count"])))
    browser.open("/#clients", DESKTOP)
    seen = {row["Application"]: row for row in browser.table()}
    for row in console("SHOW CLIENT_STATS"):
        check(f"queries of {row['application_name']}",
              number(seen[row["application_name"]]["Queries"]) == int(row["queries"]))
    browser.open("/#tables", DESKTOP)
    shop = next(row for row in browser.table() if row["Table"] == "shop")
    row = next(row for row in console("SHOW CACHE_TABLES") if row["table"] == "shop")
    check("hits of the table", number(shop["Hits"]) == int(row["hits"]), shop)
    browser.open("/#slow", DESKTOP)
    check("the slow statement is there", any("pg_sleep($1)" in row["Statement"] for row in browser.table()))
    browser.open("/#repeats", DESKTOP)
    repeated = next(row for row in browser.table() if row["Application"] == "shop-web")
    check("what was repeated is there", "WHERE id = $1" in repeated["Statement"], repeated)
    check("forty in a burst", number(repeated["Most in a burst"]) >= 40, repeated)

    cache = console("SHOW CACHE")[0]
    tiles = browser.run("document.querySelector('#tiles').innerText")
    check("answers in the cache", f"{int(cache['entries']):,} answers" in tiles, tiles)
    for name in ("Hit rate", "Queries", "Time of 95 %", "Clients", "Servers in use", "Cache"):
        check(f"a tile for {name}", name in tiles, tiles)
    nothing_wrong(browser, "loaded")


def harmless(browser):
    for tab in ("statements", "clients"):
        browser.open(f"/#{tab}", DESKTOP)
        text = browser.run("document.querySelector('#rows').textContent")
        check(f"{tab}: markup is text", ("<script>" if tab == "statements" else "<img src=x") in text)
        check(f"{tab}: no markup came of it", browser.run("document.querySelectorAll('#rows img, #rows script').length") == 0)
        check(f"{tab}: nothing ran", browser.run("window.hurt === undefined"))


def by_keyboard(browser):
    browser.open("/", DESKTOP)
    browser.run("document.body.focus()")
    path = []
    for _ in range(60):
        browser.key("Tab", 9)
        path.append(browser.run("document.activeElement.textContent.slice(0, 20) || document.activeElement.id"))
        if path[-1] == "Slow":
            break
    check("the first stop leads past the menu", path[0] == "To the table", path)
    check("a tab is reached by the keyboard", path[-1] == "Slow", path)
    outline = browser.run("getComputedStyle(document.activeElement).outlineStyle")
    check("one sees where one is", outline not in ("none", ""), outline)
    browser.key("Enter", 13, "\r")
    browser.until("Enter opens it", "document.querySelector('#title').textContent === 'Slow'")
    check("it is marked", browser.run("document.querySelector('nav [aria-current]').textContent") == "Slow")

    browser.open("/#statements", DESKTOP)
    browser.run("document.querySelectorAll('#head button')[2].focus()")
    browser.key("Enter", 13, "\r")
    sorted_by = "[...document.querySelectorAll('#head th')].map((cell) => cell.ariaSort).indexOf('descending')"
    browser.until("Enter sorts by calls", f"{sorted_by} === 2")
    calls = [number(row["Calls"]) for row in browser.table()]
    check("the most calls come first", calls == sorted(calls, reverse=True), calls)
    browser.key("Enter", 13, "\r")
    browser.until("and the other way round", "document.querySelectorAll('#head th')[2].ariaSort === 'ascending'")
    browser.run("document.querySelector('#filter').focus()")
    browser.call("Input.insertText", text="PRICE")
    browser.until("typing filters", """[...document.querySelectorAll("#rows tr")].length > 0 &&
        [...document.querySelectorAll("#rows tr")].every((row) => row.textContent.includes("price"))""")
    check("a long statement opens", browser.run("document.querySelectorAll('#rows details').length") > 0)
    browser.run("document.querySelector('#rows summary').focus()")
    browser.key("Enter", 13, "\r")
    browser.look()
    check("and stays open, and has the focus, while the page goes on",
          browser.run("document.activeElement.parentElement.open"))
    nothing_wrong(browser, "by keyboard")


def by_structure(browser):
    browser.open("/#statements", DESKTOP)
    check("it has a language", browser.run("document.documentElement.lang") == "en")
    check("one heading of the page", browser.run("document.querySelectorAll('h1').length") == 1)
    check("the table has a caption", browser.run("document.querySelector('caption').textContent.length > 10"))
    check("columns say so", browser.run("[...document.querySelectorAll('#head th')].every((cell) => cell.scope === 'col')"))
    check("fields have labels", browser.run("[...document.querySelectorAll('input, select')].every((one) => one.labels.length)"))
    check("numbers stand right", browser.run("getComputedStyle(document.querySelector('td.number')).textAlign") == "right")


def on_a_phone(browser):
    for dark in (False, True):
        for tab in TABS:
            browser.open(f"/#{tab}", PHONE, dark)
            where = f"{tab} on a phone, {'dark' if dark else 'light'}"
            fits(browser, where, PHONE)
            readable(browser, where)
            if tab in ("statements", "clients", "pools"):
                browser.run("document.querySelector('nav').scrollIntoView()" if not dark else "0")
                browser.shot(f"{tab}-phone-{'dark' if dark else 'light'}")
    for tab in TABS:
        browser.open(f"/#{tab}", DESKTOP, dark=True)
        fits(browser, f"{tab}, dark", DESKTOP)
        readable(browser, f"{tab}, dark")
        browser.shot(f"{tab}-dark")
        browser.open(f"/#{tab}", DESKTOP)
        readable(browser, f"{tab}, light")
        browser.shot(f"{tab}-light")
    nothing_wrong(browser, "on a phone")


def follows(browser):
    """Looks under load: rates are of now, and their course is drawn."""
    browser.open("/", DESKTOP)
    for _ in range(8):
        run(*[f"SELECT name, price FROM shop WHERE id = {i % 7}" for i in range(40)], application="shop-web")
        browser.look()
    small = browser.run("document.querySelector('#tiles').innerText")
    check("rates are of now", "since the start" not in small, small)
    for name in ("hit-rate", "queries", "time-of-95-%", "clients", "servers-in-use", "cache"):
        drawn = browser.run(f"document.getElementById('tile-{name}').parentElement.querySelector('.curve').getAttribute('d')")
        check(f"the course of {name} is drawn", drawn.count("L") >= 6, drawn)
    rate = browser.run("document.getElementById('tile-hit-rate').textContent")
    check("all of these are hits", rate.startswith("100"), rate)
    browser.shot("follows-light")
    browser.open("/", PHONE, dark=True)
    for _ in range(4):
        run(*[f"SELECT name, price FROM shop WHERE id = {i % 7}" for i in range(40)], application="shop-web")
        browser.look()
    browser.shot("follows-phone-dark")


def rests_when_hidden(browser):
    browser.open("/", DESKTOP)
    waits = """(async (hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
        const plain = window.setTimeout;
        let begun = 0;
        window.setTimeout = (...values) => { begun += 1; return plain(...values); };
        await look();
        window.setTimeout = plain;
        return begun;
    })"""
    check("it looks again while it is seen", browser.run(f"{waits}(false)") == 1)
    check("it rests while nobody sees it", browser.run(f"{waits}(true)") == 0)


def many_rows(browser):
    run(*[f"SELECT name AS column_{i} FROM shop WHERE id = 1" for i in range(1500)], application="many")
    for i in range(0, 300, 10):
        run("SELECT 1", application=f"application {i}")
    browser.open("/#statements", DESKTOP)
    check("a hundred rows to begin with", len(browser.table()) == 100)
    browser.shot("many-desktop")
    count = browser.run("document.querySelector('#count').textContent")
    total = len(console("SHOW STATEMENTS"))
    check("it says of how many", count == f"100 of {total:,} rows.", f"{count} {total}")
    browser.run("document.querySelector('#limit').value = '1000'; look()")
    browser.until("a thousand if wanted", "document.querySelectorAll('#rows tr').length === 1000")
    browser.run("document.querySelector('#filter').value = 'COLUMN_149'; look()")
    browser.until("or those with a word", "document.querySelectorAll('#rows tr').length === 11")
    browser.open("/#statements", PHONE)
    fits(browser, "many rows on a phone", PHONE)
    browser.shot("many-phone")
    nothing_wrong(browser, "many rows")


def forebay_goes(browser):
    browser.open("/", DESKTOP)
    os.kill(int(PID), signal.SIGKILL)
    browser.until("it says that nobody answers", "document.querySelector('#status').textContent.includes('does not answer')")
    browser.shot("lost")


def main():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            empty(browser)
            load()
            agrees(browser)
            harmless(browser)
            by_structure(browser)
            by_keyboard(browser)
            rests_when_hidden(browser)
            follows(browser)
            on_a_phone(browser)
            many_rows(browser)
            forebay_goes(browser)
        finally:
            browser.close()
    print(f"page: {COUNT} claims hold")


if __name__ == "__main__":
    main()
