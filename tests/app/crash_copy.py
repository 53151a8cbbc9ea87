"""Kill a process that corrects while its journal copies the labels, and look at what is left.

``python crash_copy.py`` prints one JSON object. The process is forked, so that a run costs no
imports; it tells on a pipe what it did and what it believes to be on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.app.edit_session import EditSession, restored_session
from napari_sa2net.data import journal_store
from napari_sa2net.data.journal import Journal, JournalImage, list_journals
from napari_sa2net.edits import replace_box

#: Killed when so many blocks were copied, of 40, or so many steps were told to be on disk.
MOMENTS = [(b"S", 1), (b"S", 20), (b"S", 39), (b"S", 40), (b"A", 1), (b"A", 2), (b"A", 9)]
SHAPE = (400, 300)


def digest(labels: NDArray[np.int32]) -> str:
    return hashlib.sha256(labels.tobytes()).hexdigest()[:16]


def correct(seed: int, out: int) -> None:
    """Correct for ever, all over the labels, while they are copied slowly."""

    def say(*words: object) -> None:
        os.write(out, (" ".join(map(str, words)) + "\n").encode())

    real = journal_store._slabs

    def slowly(*shape: Any) -> Iterator[Any]:
        for slab in real(*shape):
            yield slab
            say("S")
            time.sleep(0.001)

    journal_store._slabs = slowly
    journal_store._CHUNK_BYTES = 10 * SHAPE[1] * 4
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.repeat(np.arange(1200, dtype=np.int32).reshape(40, 30), 10, 0), 10, 1)
    session = EditSession(
        labels, lambda arrays: Journal.create(JournalImage("x"), arrays, copy=False)
    )
    acknowledged = 0
    say("D", 0, digest(labels))
    for number in range(1, 10_000):
        chance = rng.random()
        if chance < 0.2 and session.history.done:
            session.undo()
        elif chance < 0.4 and session.history.undone:
            session.redo()
        else:
            y, x = (int(rng.integers(0, n - 40)) for n in SHAPE)
            box, new = (y, y + 40, x, x + 40), rng.integers(0, 3, (4, 4), np.int32)
            new = np.repeat(np.repeat(new, 10, 0), 10, 1)
            session.do(replace_box(session.corrections, box, new))
        say("D", number, digest(labels))
        assert session.journal is not None
        durable = session.journal.durable
        if durable > acknowledged:
            acknowledged = durable
            say("A", acknowledged)


def one_run(seed: int, what: bytes, wanted: int, chance: random.Random) -> list[list[str]]:
    """Fork, kill at that moment; what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            correct(seed, write)
        finally:
            os._exit(3)
    os.close(write)
    said = b"\n"
    while said.count(b"\n" + what) < wanted and (part := os.read(read, 65536)):
        said += part
    time.sleep(chance.uniform(0, 0.004))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"seed {seed} ended by itself"
    while part := os.read(read, 65536):
        said += part
    os.close(read)
    return [line.split() for line in said.decode().split("\n")[1:-1]]


def main() -> dict[str, Any]:
    """What was found after each kill; every step that was acknowledged, as it was."""
    chance = random.Random(0)
    seen: Counter[str] = Counter()
    image: Any = object()
    for seed, (what, wanted) in enumerate(MOMENTS):
        with tempfile.TemporaryDirectory(prefix="crash ü ") as home:
            os.environ["SA2NET_HOME"] = home
            said = one_run(seed, what, wanted, chance)
            made = {int(words[1]): words[2] for words in said if words[0] == "D"}
            acknowledged = max([int(words[1]) for words in said if words[0] == "A"], default=0)
            listed = list_journals()
            if not listed:
                assert not acknowledged, f"{acknowledged} steps were acknowledged, none is left"
                assert not [one for one in os.scandir(f"{home}/journals") if one.is_dir()]
                seen["killed before all was copied"] += 1
                continue
            (info,) = listed
            assert not info.problem, info.problem
            session, cells = restored_session(info.id, image)
            assert session.journal is not None
            assert session.journal.number >= acknowledged
            # a step may have been written before it was told of
            wanted_digest = made.get(session.journal.number)
            assert wanted_digest in (None, digest(cells.labels)), f"seed {seed}"
            while session.history.done:
                session.history.undo()
            assert made[0] == digest(cells.labels), f"seed {seed}: the first labels"
            session.journal.discard()
            seen["steps restored"] += info.n_edits
            seen["killed after that"] += 1
    return dict(seen)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
