"""What the tables of bench/ are measured with."""

import time


def cpu_us(pid):
    """User and kernel time of all threads, those that have ended too; the kernel's ticks of 10 ms would be
    too coarse."""
    clock = (~int(pid) << 3) | 2  # As clock_getcpuclockid makes it.
    return time.clock_gettime_ns(clock) / 1000
