"""Kill a process that edits and commits, again and again, and look at what is left.

``python crash_loop.py RUNS [SEED]`` prints one JSON object. The process is forked, so that
a run costs no imports; it acknowledges on a pipe what it believes to be on disk.
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
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.commit import Commit, checked_commit
from napari_sa2net.data.corrections import TrainingSet
from napari_sa2net.data.journal import Journal, JournalImage, Step, list_journals
from napari_sa2net.data.training_set import load_training_folder

NAME = "Präparat 3, Zellen"
#: It is killed after up to so many acknowledgements, or when a commit begins, and at most so
#: many seconds later.
MOST_LINES = 30
JITTER = 0.05


def digest(labels: NDArray[np.int32]) -> str:
    return hashlib.sha256(labels.tobytes()).hexdigest()[:16]


def apply(labels: NDArray[np.int32], step: Step) -> None:
    y0, y1, x0, x1 = step.header["box"]
    labels[y0:y1, x0:x1] = np.frombuffer(step.payload, np.int32).reshape(y1 - y0, x1 - x0)


def edit_and_commit(folder: Path, seed: int, out: int) -> None:
    """Edit for ever, as a window does: journal, commit now and then, say what is done."""

    def say(*words: object) -> None:
        os.write(out, (" ".join(map(str, words)) + "\n").encode())

    rng = np.random.default_rng(seed)
    image, labels = synthetic_nuclei((160, 200), 20, 20, seed=3)
    say("ready")
    training_set = TrainingSet.open(folder, create=True)
    left = list_journals()
    if left:
        journal = Journal.reopen(left[0].id)
        restored = journal.read()
        labels = restored.arrays["labels"].copy()
        for step in restored.steps:
            apply(labels, step)
        say("J", journal.id, journal.number, digest(labels))
    else:
        journal = Journal.create(JournalImage(NAME, shape=labels.shape), {"labels": labels})
    while True:
        done = []
        for _ in range(rng.integers(1, 5)):
            y, x = rng.integers(0, 140), rng.integers(0, 180)
            new = np.full(
                (rng.integers(1, 20), rng.integers(1, 20)), rng.integers(99), np.int32
            )
            box = [int(y), int(y + new.shape[0]), int(x), int(x + new.shape[1])]
            labels[y : box[1], x : box[3]] = new
            done.append((journal.append(new.tobytes(), {"box": box}), digest(labels)))
        for number, hashed in done:
            journal.wait(number)
            say("J", journal.id, number, hashed)
        choice = rng.random()
        if choice < 0.15:
            journal.compact({"labels": labels})
        elif choice < 0.4:
            box = None if choice < 0.3 else (0, 160, 0, 200)
            commit = Commit(image, labels, source=NAME, box=box, n_edits=journal.number)
            say("B")
            # Rectangles at random are no cells: kept all the same.
            record = training_set._commit_all([checked_commit(commit)])[0]
            say("C", record.id, digest(labels))
            if rng.random() < 0.5:
                journal.mark_committed(commit=record.id)
            else:
                journal.finish(record.id)
                image_of = JournalImage(NAME, shape=labels.shape)
                journal = Journal.create(image_of, {"labels": labels})
        elif choice < 0.45:
            active = training_set.commits()
            if active:
                training_set.remove(active[0].id)


def one_run(folder: Path, seed: int, chance: random.Random, last: bool) -> list[list[str]]:
    """Fork, let it work for a moment (the last until a commit), kill it; what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            edit_and_commit(folder, seed, write)
        finally:
            os._exit(3)
    os.close(write)
    said = os.read(read, 65536)
    moments = [(b"\n", chance.randrange(MOST_LINES)), (b"\nB\n", 0)]
    what, wanted = (b"\nC ", 0) if last else chance.choice(moments)
    while said.count(what) <= wanted and (part := os.read(read, 65536)):
        said += part
    time.sleep(chance.uniform(0, JITTER))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"seed {seed} ended by itself"
    while part := os.read(read, 65536):
        said += part
    os.close(read)
    # The last line may be torn like anything else; then it was not said.
    return [line.split() for line in said.decode().split("\n")[:-1]]


def check_journal(said: list[list[str]]) -> int:
    """Every acknowledged step must be restorable; the number of steps that are."""
    steps = [(place, words) for place, words in enumerate(said) if words[0] == "J"]
    if not steps:
        list_journals()
        return 0
    place, (_, identity, number, hashed) = steps[-1]
    listed = {info.id: info for info in list_journals(in_use=True)}
    if identity not in listed:
        kept = [words[2] for words in said[place:] if words[0] == "C"]
        assert hashed in kept, f"journal {identity} is gone, step {number} is in no commit"
        return 0
    assert not listed[identity].in_use, "a dead process holds the lock"
    assert not listed[identity].problem, listed[identity].problem
    journal = Journal.reopen(identity)
    restored = journal.read()
    labels = restored.arrays["labels"].copy()
    seen = {journal.number - len(restored.steps): digest(labels)}
    for step in restored.steps:
        apply(labels, step)
        seen[step.number] = digest(labels)
    journal.close()
    for _, (_, other, n, wanted) in steps:
        if other == identity and int(n) in seen:  # earlier ones are in the snapshot
            assert seen[int(n)] == wanted, f"step {n} was restored otherwise"
    assert int(number) in seen, f"step {number} was acknowledged, {max(seen)} is the last"
    return sum(1 for _, words in steps if words[1] == identity)


def main(runs: int, seed: int = 0) -> dict[str, object]:
    """Kill `runs` times; figures of what was acknowledged, all of it found again."""
    chance = random.Random(seed)
    commits: dict[str, str] = {}
    n_steps = n_acknowledged = n_superseded = 0
    with tempfile.TemporaryDirectory(prefix="crash ü ") as temporary:
        os.environ["SA2NET_HOME"] = str(Path(temporary) / "home")
        folder = Path(temporary) / "Korrekturen, Übung"
        for run in range(runs):
            said = one_run(folder, seed * 100_000 + run, chance, run == runs - 1)
            commits |= {words[1]: words[2] for words in said if words[0] == "C"}
            n_acknowledged += sum(words[0] == "J" for words in said)
            n_steps += check_journal(said)
            if not (folder / "corrections.json").exists():
                assert not commits
                continue
            training_set = TrainingSet.open(folder)
            records = {
                record.id: record
                for record in training_set.commits("active", "superseded", "removed")
            }
            n_superseded = sum(r.state == "superseded" for r in records.values())
            assert commits.keys() <= records.keys(), "an acknowledged commit is not listed"
            for identity in records:
                found = digest(training_set.load(identity).labels)
                assert commits.setdefault(identity, found) == found
            if training_set.commits():
                named = {item.name for item in load_training_folder(folder)}
                files = {path.stem for path in (folder / "images").iterdir()}
                assert named == files == {r.name for r in training_set.commits()}
            assert not list(folder.rglob(".part-*"))
            assert not list(folder.rglob(".pending-*"))
        with suppress(IndexError):
            left = list_journals()
            assert len(left) <= 1, "a journal is left that nobody will restore"
    return {
        "kills": runs,
        "acknowledged_commits": len(commits),
        "superseded": n_superseded,
        "acknowledged_steps": n_acknowledged,
        "steps_restored_after_a_kill": n_steps,
        "lost": 0,
    }


if __name__ == "__main__":
    print(json.dumps(main(*(int(argument) for argument in sys.argv[1:3]))))
