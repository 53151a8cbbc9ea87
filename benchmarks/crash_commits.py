"""Kill a process that edits and commits 100 times: ``python -m benchmarks.crash_commits [N]``.

Fails if an acknowledged commit cannot be read or a journalled edit cannot be restored.
"""

from __future__ import annotations

import sys
import time

from benchmarks.tables import show
from tests.data.crash_loop import main

if __name__ == "__main__":
    start = time.perf_counter()
    figures = main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    show([figures | {"seconds": round(time.perf_counter() - start)}])
