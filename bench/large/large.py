"""Prints what large results cost, as tables.

usage: large.py MEGABYTES ROUNDS USER DATABASE NAME=URL=PID…       the first is the yardstick
"""

import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time
from urllib.parse import urlparse

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from soak import Client, frame  # noqa: E402

SHAPES = {
    "rows of 200 bytes": "SELECT line FROM short",
    "rows of 20,000 bytes": "SELECT page FROM long",
    "COPY of 200 bytes": "COPY short TO STDOUT",
}
SLOW_BYTES_A_SECOND = 100_000
SLOW_SECONDS = 4
READY = b"Z\0\0\0\5I"


class Target:
    def __init__(self, described, user, database):
        self.name, url, self.pid = described.rsplit("=", 2)
        where = urlparse(url)
        self.connect = lambda: Client((where.hostname, where.port), user, database)

    def cpu_ms(self):
        """Of all its threads; the kernel's ticks would be too coarse."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6

    def kilobytes(self, field):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", status, re.M).group(1))

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")


def read_all(client, sql):
    """Sends the query and reads its whole answer; gives its bytes."""
    client.send(frame(b"Q", sql.encode() + b"\0"))
    buffer, end, total = bytearray(1 << 20), b"", 0
    # Rows hold no such bytes.
    while not end.endswith(READY):
        count = client.socket.recv_into(buffer)
        if count == 0:
            raise SystemExit(f"{sql}: closed after {total} bytes")
        total += count
        end = (end + bytes(buffer[max(count - len(READY), 0) : count]))[-len(READY) :]
    return total


def cost(target, sql):
    """CPU in milliseconds, seconds, and megabytes."""
    client = target.connect()
    before, began = target.cpu_ms(), time.monotonic()
    total = read_all(client, sql)
    seconds = time.monotonic() - began
    spent = target.cpu_ms() - before
    client.close()
    return spent, seconds, total / 1e6


def calls(target, sql):
    """System calls a megabyte."""
    client = target.connect()
    command = ["strace", "-c", "-f", "-qq", "-p", target.pid]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    attached = pathlib.Path(f"/proc/{target.pid}/status")
    while re.search(r"^TracerPid:\s+0$", attached.read_text(), re.M):
        time.sleep(0.01)
    total = read_all(client, sql)
    tracer.send_signal(signal.SIGINT)
    summary = tracer.communicate()[1]
    client.close()
    counted = re.search(r"([\d.]+)\s+[\d.]+\s+\d*\s+(\d+)(?:\s+\d+)?\s+total", summary)
    return int(counted.group(2)) / (total / 1e6)


def held(target, sql):
    """Kilobytes that the process has grown by at most, while the reader is slow."""
    client = target.connect()
    target.forget_peak()
    before = target.kilobytes("VmRSS")
    client.send(frame(b"Q", sql.encode() + b"\0"))
    for _ in range(SLOW_SECONDS * 10):
        left = SLOW_BYTES_A_SECOND // 10
        while left:
            left -= len(client.socket.recv(left))
        time.sleep(0.1)
    grown = target.kilobytes("VmHWM") - before
    client.close(politely=False)
    return grown


def main():
    megabytes, rounds, user, database, *described = sys.argv[1:]
    targets = [Target(one, user, database) for one in described]
    print("# Large results\n")
    print("`bench/large/run.sh --write` makes this file: one client reads an answer to its end. CPU: user and")
    print(f"kernel time of all the proxy's threads, median of {rounds} rounds in turn; in brackets the median of")
    print("the ratios to the first, round by round. *Calls*: all system calls. *Slow reader*: what the")
    print(f"process grows by at most while a reader takes {SLOW_BYTES_A_SECOND // 1000} kB a second of such an answer.")
    for title, sql in SHAPES.items():
        runs = {target.name: [] for target in targets}
        for target in targets:
            total = cost(target, sql)[2]
        for turn in range(int(rounds)):
            order = targets[turn % len(targets) :] + targets[: turn % len(targets)]
            for target in order:
                runs[target.name].append(cost(target, sql)[:2])
        print(f"\n## {title[0].upper()}{title[1:]}, {total:.0f} MB\n")
        print("| | CPU ms | MB/s | calls a MB | slow reader, kB |")
        print("|---|---:|---:|---:|---:|")
        yardstick = [spent for spent, _ in runs[targets[0].name]]
        for target in targets:
            spent = [one for one, _ in runs[target.name]]
            ratio = statistics.median(ours / theirs for ours, theirs in zip(spent, yardstick))
            speed = total / statistics.median(seconds for _, seconds in runs[target.name])
            made, grown = calls(target, sql), held(target, sql)
            cells = f"{statistics.median(spent):,.0f} ({ratio:.2f}) | {speed:,.0f} | {made:.0f} | {grown:,.0f}"
            print(f"| {target.name} | {cells} |", flush=True)


main()
