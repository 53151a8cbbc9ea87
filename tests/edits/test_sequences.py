"""Any sequence of corrections can be taken back and done again, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_sa2net import edits
from napari_sa2net.edits import Corrections, History, PlaneIndex, ReviewedMask, Step
from napari_sa2net.errors import EditConflictError, EditError, NothingToEditError

PLANES, HEIGHT, WIDTH = 2, 40, 56


def random_labels(seed: int) -> np.ndarray:
    """Two planes of disks: some touch, some are cut up, and there are gaps in the numbers."""
    random = np.random.default_rng(seed)
    labels = np.zeros((PLANES, HEIGHT, WIDTH), np.int32)
    y, x = np.indices((HEIGHT, WIDTH))
    for plane in labels:
        for label in random.choice(np.arange(1, 40), 9, replace=False):
            cy, cx, r = (
                random.integers(0, HEIGHT),
                random.integers(0, WIDTH),
                random.uniform(2, 8),
            )
            plane[np.hypot(y - cy, x - cx) <= r] = label
    return labels


points = st.tuples(
    st.floats(-5, HEIGHT + 5, allow_nan=False), st.floats(-5, WIDTH + 5, allow_nan=False)
)
boxes = st.tuples(
    st.integers(0, HEIGHT - 1),
    st.integers(1, 25),
    st.integers(0, WIDTH - 1),
    st.integers(1, 25),
).map(lambda b: (b[0], min(b[0] + b[1], HEIGHT), b[2], min(b[2] + b[3], WIDTH)))
moves = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("split", "merge", "merge_labels", "delete", "delete_lasso", "fill", "smooth"),
                *("edge", "redraw", "draw", "box", "box_all", "paint", "erase", "accept"),
                *("accept_view", "unaccept", "ignore", "reviewed", "unregion", "undo", "redo"),
            ]
        ),
        st.integers(0, PLANES - 1),
        st.integers(0, 100),
        st.lists(points, min_size=3, max_size=6),
        boxes,
    ),
    min_size=1,
    max_size=14,
)


def some(corrections: Corrections, index: tuple[int, ...], pick: int, n: int = 1) -> list[int]:
    labels = sorted(corrections.plane(index).labels.tolist())
    return [labels[(pick + 7 * i) % len(labels)] for i in range(n)] if labels else []


def make(corrections: Corrections, move: tuple) -> Step:
    """The step of a drawn move, or an EditError where it cannot be made."""
    name, plane, pick, outline, box = move
    c, index = corrections, (plane,)
    height, width = box[1] - box[0], box[3] - box[2]
    if name == "split":
        return edits.split(c, outline, index)
    if name == "merge":
        return edits.merge(c, outline, index)
    if name == "merge_labels":
        return edits.merge(c, labels=some(c, index, pick, 2), index=index)
    if name == "delete":
        return edits.delete(c, some(c, index, pick), index)
    if name == "delete_lasso":
        return edits.delete(c, lasso=outline, index=index)
    if name == "fill":
        return edits.fill_holes(c, some(c, index, pick, 3), index)
    if name == "smooth":
        return edits.smooth(c, some(c, index, pick, 2), index)
    if name == "edge":
        random = np.random.default_rng(pick).random((HEIGHT, WIDTH)).astype(np.float32)
        foreground = ndimage.gaussian_filter(random, 2)
        level = float(np.clip(np.median(foreground), 0.01, 0.99))
        return edits.fit_to_edge(c, some(c, index, pick, 2), foreground, index, level, 5)
    if name == "redraw":
        chosen = some(c, index, pick)
        label = chosen[0] if chosen else None
        return edits.redraw(
            c, outline, index, label, overwrite=(True, False, "unreviewed")[pick % 3]
        )
    if name == "draw":
        mask = np.random.default_rng(pick).random((height, width)) > 0.4
        return edits.redraw_mask(c, mask, (box[0], box[2]), index)
    if name in ("box", "box_all"):
        new = ndimage.label(np.random.default_rng(pick).random((height, width)) > 0.45)[0]
        return edits.replace_box(c, box, new, index, keep_reviewed=name == "box")
    if name == "accept":
        return edits.accept(c, some(c, index, pick, 3), index)
    if name == "accept_view":
        return edits.accept_in_view(c, box, index)
    if name == "unaccept":
        return edits.unaccept(c, some(c, index, pick, 3), index)
    if name == "ignore":
        return edits.mark_region(c, "ignore", index, polygon=outline)
    if name == "reviewed":
        return edits.mark_region(c, "reviewed", index, box=box)
    if name == "unregion":
        marked = [r.id for r in c.regions_of(index) if r.kind != "cleared"]
        if not marked:
            raise NothingToEditError("none")
        return edits.remove_region(c, marked[pick % len(marked)])
    raise AssertionError(name)


def paint(corrections: Corrections, move: tuple) -> Step:
    """Paint into the array as napari does, dab by dab, and give the step of the stroke."""
    name, plane, pick, outline, _ = move
    labels, atoms = corrections.labels, []
    chosen = some(corrections, (plane,), pick)
    value = 0 if name == "erase" else (chosen[0] if chosen and pick % 3 else 50 + pick)
    for y, x in outline:
        rows, cols = np.mgrid[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].reshape(2, -1)
        inside = (rows >= 0) & (rows < HEIGHT) & (cols >= 0) & (cols < WIDTH)
        where = (np.full(inside.sum(), plane), rows[inside], cols[inside])
        atoms.append((where, labels[where].copy(), value))
        labels[where] = value
    return edits.stroke(corrections, atoms)


def state(corrections: Corrections) -> tuple:
    """All that steps change."""
    planes = [(i,) for i in range(PLANES)]
    return (
        corrections.labels.copy(),
        [corrections.marked(index) for index in planes],
        dict(corrections.regions),
    )


def same(a: tuple, b: tuple) -> bool:
    return np.array_equal(a[0], b[0]) and a[1:] == b[1:]


def index_is_true(corrections: Corrections) -> None:
    """The index that followed the steps is the one that a scan gives."""
    for i in range(PLANES):
        known, fresh = corrections.plane((i,)), PlaneIndex(corrections.labels[i])
        tables = []
        for plane in (known, fresh):
            order = np.argsort(plane.labels)
            columns = (plane.labels[:, None], plane.areas[:, None], plane.boxes, plane.centres)
            tables.append(np.hstack(columns)[order])
        np.testing.assert_array_equal(*tables)
        assert corrections.index.max_label >= fresh.labels.max(initial=0)
        for label in known.labels.tolist():
            own = corrections.labels[i] == label
            for boxes in (corrections.parts(label, (i,)), corrections.places(label, (i,))):
                held = np.zeros_like(own)
                for y0, y1, x0, x1 in boxes:
                    held[y0:y1, x0:x1] = True
                assert held[own].all()


@pytest.mark.parametrize(("wide", "block"), [(256, 128), (6, 4)])
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(st.integers(0, 10_000), moves)
def test_there_and_back_again(wide, block, seed, moves):
    with pytest.MonkeyPatch.context() as patch:
        # as if the cells were large
        patch.setattr("napari_sa2net.edits.corrections._WIDE", wide)
        patch.setattr("napari_sa2net.edits.corrections._BLOCK", block)
        there_and_back(seed, moves)


def there_and_back(seed, moves):
    corrections = Corrections(random_labels(seed))
    history = History(corrections)
    reviewed = ReviewedMask(corrections)
    states = [state(corrections)]
    used = set(np.unique(corrections.labels).tolist())
    made: list[Step] = []
    for move in moves:
        for plane in range(PLANES):
            reviewed.plane((plane,))
        before = state(corrections)
        try:
            if move[0] == "undo":
                step = history.undo()
                states.pop()
                assert same(state(corrections), states[-1])
            elif move[0] == "redo":
                step = history.redo()
                states.append(state(corrections))
            elif move[0] in ("paint", "erase"):
                step = history.record(paint(corrections, move))
                states.append(state(corrections))
            else:
                step = history.do(make(corrections, move))
                states.append(state(corrections))
                if step.kind in ("split", "redraw", "resegment"):
                    appeared = set(step.labels) - set(np.unique(before[0]).tolist())
                    assert not appeared & used, "a new object took a number that was used"
        except EditConflictError:
            raise
        except EditError:  # it cannot be made there; all is as it was
            assert same(before, state(corrections))
            continue
        used |= set(np.unique(corrections.labels).tolist())
        made.append(step)
        index_is_true(corrections)
        reviewed.update(step)
        for plane in range(PLANES):
            np.testing.assert_array_equal(
                reviewed.plane((plane,)), edits.reviewed_mask(corrections, (plane,))
            )
    for _ in range(2):
        end = state(corrections)
        n = len(history.done)
        for expected in states[-2::-1]:
            assert history.undo_words.startswith("Undo ")
            history.undo()
            assert same(state(corrections), expected)
        assert not history.done
        assert history.undo_words == ""
        index_is_true(corrections)
        for _ in range(n):
            history.redo()
        assert same(state(corrections), end)

    # The same steps, read back from bytes, lead from the same start to the same end.
    replayed = Corrections(random_labels(seed))
    for step in history.done:
        read = Step.from_bytes(step.to_bytes())
        assert (read.kind, read.words, read.labels) == (step.kind, step.words, step.labels)
        replayed.apply(read)
    assert same(state(replayed), state(corrections))
    index_is_true(replayed)
    # And labels saved in between, with what was said of them, are as good a beginning.
    resumed = Corrections(corrections.labels.copy())
    resumed.apply(Step.from_bytes(corrections.said().to_bytes()))
    assert same(state(resumed), state(corrections))
    assert resumed.new_region() not in corrections.regions
    for step in reversed(history.done):
        resumed.revert(step)
    assert same(state(resumed), states[0])
    for step in reversed(history.done):
        replayed.revert(Step.from_bytes(step.to_bytes()))
    assert same(state(replayed), states[0])


def test_memory_is_bounded():
    corrections = Corrections(random_labels(1))
    start = corrections.labels.copy()
    history = History(corrections, limit_bytes=6_000)
    for turn in range(40):
        box = (0, HEIGHT, 0, WIDTH)
        new = ndimage.label(np.random.default_rng(turn).random((HEIGHT, WIDTH)) > 0.9)[0]
        history.do(edits.replace_box(corrections, box, new, (0,), keep_reviewed=False))
    assert len(history.done) == 1  # each takes more than all may: the newest stays
    history.undo()
    assert not np.array_equal(corrections.labels, start)
    history.redo()
    small = History(corrections, limit_bytes=6_000)
    for turn in range(40):
        mark = edits.accept if turn % 2 == 0 else edits.unaccept
        small.do(mark(corrections, some(corrections, (1,), 0), (1,)))
        assert small.nbytes <= 6_000
    assert 5 <= len(small.done) < 40
    taken_back = len(small.done)
    for _ in range(taken_back):
        small.undo()
    with pytest.raises(NothingToEditError, match="no correction to undo"):
        small.undo()
    assert small.nbytes > 0
    small.do(edits.accept(corrections, some(corrections, (1,), 1), (1,)))
    assert small.nbytes == small.done[0].nbytes
    with pytest.raises(NothingToEditError, match="do again"):
        small.redo()


def test_words_of_the_history():
    labels = np.zeros((20, 40), np.int32)
    labels[5:15, 5:35] = 17
    corrections = Corrections(labels)
    history = History(corrections)
    assert (history.undo_words, history.redo_words) == ("", "")
    history.do(edits.split(corrections, [(0, 18), (20, 18)]))
    history.do(edits.delete(corrections, [17]))
    assert history.undo_words == "Undo deletion of cell 17"
    history.undo()
    assert history.undo_words == "Undo split of cell 17"
    assert history.redo_words == "Redo deletion of cell 17"


def test_steps_that_do_not_fit_change_nothing():
    labels = random_labels(3)
    corrections = Corrections(labels)
    history = History(corrections)
    history.do(edits.delete(corrections, some(corrections, (0,), 0), (0,)))
    patch = history.done[0].patches[0]
    rows, cols = patch.pixels()
    labels[0][rows[-1], cols[-1]] = 99  # by something else
    before = state(corrections)
    with pytest.raises(EditConflictError, match="1 of its"):
        history.undo()
    assert same(before, state(corrections))
    assert len(history.done) == 1
    labels[0][rows[-1], cols[-1]] = 0
    history.undo()

    step = edits.delete(corrections, some(corrections, (1,), 0), (1,))
    for other in (
        Corrections(np.zeros((PLANES, HEIGHT, WIDTH), np.int32)),
        Corrections(np.zeros((PLANES, 3, 3), np.int32)),
        Corrections(np.zeros((1, HEIGHT, WIDTH), np.int32)),
        Corrections(np.zeros((HEIGHT, WIDTH), np.int32)),
    ):
        with pytest.raises(EditConflictError):
            other.apply(step)
        assert not other.labels.any()
    narrow = Corrections(np.zeros((HEIGHT, WIDTH), np.uint8))
    large = Corrections(np.full((HEIGHT, WIDTH), 300, np.int32))
    with pytest.raises(EditConflictError, match="uint8"):
        narrow.apply(edits.delete(large, [300]))
    large.labels[:2] = 3
    mixed = Corrections(large.labels)  # also where one number alone is too large
    for step in (edits.delete(mixed, [3, 300]), edits.delete(mixed, [3, 300]).inverse()):
        with pytest.raises(EditConflictError, match="uint8"):
            narrow.apply(step)

    accepted = edits.accept(corrections, some(corrections, (1,), 1), (1,))
    corrections.apply(accepted)
    with pytest.raises(EditConflictError, match="reviewed differently"):
        corrections.apply(accepted)
    region = edits.mark_region(corrections, "ignore", (0,), box=(0, 9, 0, 9))
    with pytest.raises(EditConflictError, match="not there"):
        corrections.revert(region)
    corrections.apply(region)
    with pytest.raises(EditConflictError, match="there already"):
        corrections.apply(region)
