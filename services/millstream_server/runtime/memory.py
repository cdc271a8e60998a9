"""Keeps big blocks on the heap.

glibc gives every block above 128 KiB fresh pages from the kernel and returns them at once; for
messages of 256 KiB the page faults cost more than the message (160 against 520 MB/s in). Raised
thresholds keep such blocks in the heap. The same can be had from outside with
``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_``.
"""

import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# 32 MiB is the largest that glibc accepts.
MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
TRIM_THRESHOLD_BYTES = 256 * 1024 * 1024


def keep_big_blocks_on_the_heap() -> bool:
    """Raise the thresholds; True if this C library has them. Leaves an operator's own alone."""
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return True
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
    )
