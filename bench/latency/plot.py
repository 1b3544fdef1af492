"""Draws latency against rate as an SVG: p50 on the left, p99 on the right, both axes logarithmic."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 960, 470
PANELS = [("p50", "half of all answers take less (p50)", 76), ("p99", "one in a hundred takes longer (p99)", 534)]
PANEL_WIDTH, TOP, BOTTOM = 400, 96, 404
# Told apart without colour by their marks too.
LOOKS = [("#5f6670", "square"), ("#c2410c", "triangle"), ("#1d4ed8", "circle"), ("#047857", "diamond")]
TEXT, FAINT, BACKGROUND = "#1f2328", "#d8dee4", "#ffffff"
LOWEST_US, HIGHEST_US = 10, 1_000_000
UNITS = [(10, "10 µs"), (100, "100 µs"), (1_000, "1 ms"), (10_000, "10 ms"), (100_000, "100 ms"), (1_000_000, "1 s")]


def text(x, y, words, anchor="middle", size=14, extra=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}"{extra}>{escape(words)}</text>'


def line(x1, y1, x2, y2, colour=FAINT):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def mark(x, y, look, size=4.5):
    colour, shape = look
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"/>'
    corners = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "triangle": [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[shape]
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'


def cross(x, y, colour):
    ends = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
    return f'<path d="{ends}" stroke="{colour}" stroke-width="2.5" fill="none"/>'


def draw(found, protocol, clients):
    """`found`: for each name its runs at rising rates, times in microseconds."""
    rates = sorted({run["offered"] for runs in found.values() for run in runs})
    low, high = rates[0], rates[-1]

    def across(left, rate):
        share = math.log(rate / low) / math.log(high / low) if high > low else 0.5
        return left + 12 + share * (PANEL_WIDTH - 24)

    def up(micros):
        share = math.log(micros / LOWEST_US) / math.log(HIGHEST_US / LOWEST_US)
        return BOTTOM - min(max(share, 0), 1) * (BOTTOM - TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" fill="{TEXT}" role="img" '
        'aria-label="Time to an answer against requests a second">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{BACKGROUND}"/>',
        text(76, 28, f"Time to an answer: point reads, {protocol} protocol, open loop, {clients} connections", "start", 17, ' font-weight="600"'),
    ]
    x = 76
    for name, look in zip(found, LOOKS):
        out += [line(x, 52, x + 26, 52, look[0]).replace("/>", ' stroke-width="2.5"/>'), mark(x + 13, 52, look), text(x + 33, 57, name, "start")]
        x += 56 + 7.4 * len(name)
    out += [cross(x + 6, 52, TEXT), text(x + 18, 57, "can bear no more", "start")]
    ticks = [n * 10**power for power in range(2, 6) for n in (1, 2, 5) if low <= n * 10**power <= high]
    for key, title, left in PANELS:
        right = left + PANEL_WIDTH
        out.append(text(left + PANEL_WIDTH / 2, TOP - 11, title))
        for micros, name in UNITS:
            out += [line(left, up(micros), right, up(micros)), text(left - 8, up(micros) + 5, name, "end", 13)]
        for rate in ticks:
            at = across(left, rate)
            name = f"{rate / 1000:g}k" if rate >= 1000 else str(rate)
            out += [line(at, TOP, at, BOTTOM), text(at, BOTTOM + 20, name, size=13)]
        out += [line(left, BOTTOM, right, BOTTOM, TEXT), line(left, TOP, left, BOTTOM, TEXT)]
        for runs, look in zip(found.values(), LOOKS):
            points = [(across(left, run["offered"]), up(run[key]), run["borne"]) for run in runs]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{look[0]}" stroke-width="2.5"/>')
            out += [mark(x, y, look) if borne else cross(x, y, look[0]) for x, y, borne in points]
        out.append(text(left + PANEL_WIDTH / 2, BOTTOM + 46, "requests a second, offered"))
    out.append("</svg>\n")
    return "\n".join(out)
