"""``make bench``: every benchmark, each in a process of its own, so none warms up another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run all ``bench_*.py``, or those whose names are given; the number that failed.

    What follows the names from the first ``-`` on is theirs.
    """
    folder = Path(__file__).parent
    asked = sys.argv[1:]
    n = next((i for i, one in enumerate(asked) if one.startswith("-")), len(asked))
    wanted, options = asked[:n], asked[n:]
    failed = 0
    for path in sorted(folder.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        if wanted and name not in wanted:
            continue
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-W", "ignore", "-m", f"{folder.name}.{path.stem}", *options]
        code = subprocess.run(command, cwd=folder.parent, check=False).returncode
        if code:
            failed += 1
            print(f"{name} ended with code {code}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
