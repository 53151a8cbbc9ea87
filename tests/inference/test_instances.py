"""Objects from probabilities: every setting, every class list, degenerate sizes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as connected
from skimage.segmentation import relabel_sequential

from napari_sa2net.config import InstanceConfig
from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.instances import (
    Basins,
    PlaneLinker,
    fill_holes,
    inner_distance,
    label_at_splits,
    label_objects,
    relabel_raster,
)
from napari_sa2net.measure import object_table
from napari_sa2net.metrics import evaluate
from napari_sa2net.training.dataset import depths, distance_target

THREE = ("background", "interior", "boundary")
TWO = ("background", "foreground")
ONE = ("foreground",)


def discs(shape, *circles):
    """Labels of discs (y, x, radius); later ones do not overwrite earlier ones."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (y, x, r) in enumerate(circles, start=1):
        labels[((yy - y) ** 2 + (xx - x) ** 2 <= r * r) & (labels == 0)] = number
    return labels


def probabilities(labels, blur=1.0, contact=1.0):
    """Three classes as a good network gives them; ``contact`` is how well it sees contacts."""
    padded = np.pad(labels, 1, mode="edge")
    h, w = labels.shape
    edge, between = np.zeros((2, h, w), bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        other = padded[dy : dy + h, dx : dx + w]
        edge |= other != labels
        between |= (other != labels) & (other > 0)
    cell = labels > 0
    boundary = (edge & cell).astype(float)
    boundary[between & cell] = contact
    stack = np.stack([~cell, cell - boundary, boundary])
    stack = np.stack([ndimage.gaussian_filter(p.astype(float), blur) for p in stack])
    return (stack / stack.sum(0)).astype(np.float32)


def many(seed=0, n=40, size=256):
    rng = np.random.default_rng(seed)
    circles = [(*rng.uniform(0, size, 2), rng.uniform(7, 12)) for _ in range(n)]
    return relabel_sequential(discs((size, size), *circles))[0]


TOUCHING = discs((40, 60), (20, 20, 10), (20, 38, 10))


# --- splitting -------------------------------------------------------------------------


def test_touching_cells_are_cut_where_the_boundary_runs():
    labels = label_objects(probabilities(TOUCHING), THREE, InstanceConfig())
    scores = evaluate(labels, TOUCHING)
    assert labels.max() == 2
    assert scores["ap75"] == 1


def test_touching_cells_are_cut_where_the_distance_dips():
    p = probabilities(TOUCHING, contact=0.0)  # no boundary was seen between them
    distance = distance_target(TOUCHING, depths(TOUCHING))[None]
    both = np.concatenate([p, distance])
    labels = label_objects(both, (*THREE, "distance"), InstanceConfig())
    assert labels.max() == 2
    assert evaluate(labels, TOUCHING)["ap75"] == 1
    # Split keeps its meaning: at 0 connected foreground, and more gives never fewer.
    found = [
        int(label_objects(both, (*THREE, "distance"), InstanceConfig(split=s)).max())
        for s in (0, 0.05, 0.3, 0.5, 0.8, 1)
    ]
    assert found[0] == 1
    assert found == sorted(found)
    assert found[-1] == 2


def test_a_neck_alone_cuts_when_the_network_missed_the_contact():
    unseen = probabilities(TOUCHING, contact=0.0)
    assert label_objects(unseen, THREE, InstanceConfig(split=0.3)).max() == 1
    assert label_objects(unseen, THREE, InstanceConfig(split=0.8)).max() == 2


@pytest.mark.parametrize(
    ("classes", "take"),
    [(TWO, lambda p: np.stack([p[0], 1 - p[0]])), (ONE, lambda p: 1 - p[:1])],
    ids=["two classes", "one class"],
)
def test_without_a_boundary_class_cells_are_cut_at_the_neck(classes, take):
    probability = take(probabilities(TOUCHING))
    labels = label_objects(probability, classes, InstanceConfig(split=0.7))
    assert labels.max() == 2
    assert evaluate(labels, TOUCHING)["ap75"] == 1


@pytest.mark.parametrize("classes", [THREE, TWO, ONE], ids=len)
def test_split_zero_is_connected_foreground(classes):
    p = probabilities(many())
    probability = {3: p, 2: np.stack([p[0], 1 - p[0]]), 1: 1 - p[:1]}[len(classes)]
    config = InstanceConfig(split=0, min_size=0, fill_holes=False)
    labels = label_objects(probability, classes, config)
    expected = connected((1 - p[0]) >= 0.5, connectivity=2)
    assert np.array_equal(labels, expected)


def test_more_split_never_gives_fewer_objects():
    p = probabilities(many(), contact=0.4)
    counts = [
        label_objects(p, THREE, InstanceConfig(split=s)).max() for s in np.linspace(0, 1, 11)
    ]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_a_crowd_is_found_again():
    truth = many(seed=3)
    labels = label_objects(probabilities(truth), THREE, InstanceConfig())
    assert evaluate(labels, truth)["ap50"] > 0.85


def test_a_wide_boundary_is_not_cut_into_splinters():
    # As on a coarse network grid enlarged to the image: the ring is several pixels wide, and
    # its height varies along the way.
    rng = np.random.default_rng(4)
    labels = discs((160, 160), (45, 50, 28), (110, 105, 30))
    p = probabilities(labels, blur=1.0)
    p = np.stack([ndimage.zoom(c, 4, order=1) for c in p])
    p += ndimage.gaussian_filter(rng.normal(0, 0.6, p.shape), (0, 2, 2)).astype(np.float32)
    p = np.clip(p, 1e-3, None)
    p /= p.sum(0)
    assert label_objects(p, THREE, InstanceConfig(min_size=5)).max() == 2


def test_a_small_faint_object_without_any_interior_is_kept():
    p = np.zeros((3, 20, 20), np.float32)
    p[0] = 1
    p[:, 8:12, 8:12] = np.array([0.4, 0.1, 0.5])[:, None, None]
    labels = label_objects(p, THREE, InstanceConfig(split=1, min_size=12))
    assert labels.max() == 1
    assert (labels > 0).sum() == 16


def test_every_foreground_component_keeps_an_object():
    rng = np.random.default_rng(1)
    p = rng.dirichlet((1, 1, 1), (64, 64)).transpose(2, 0, 1).astype(np.float32)
    config = InstanceConfig(split=0.6, min_size=0, fill_holes=False)
    labels = label_objects(p, THREE, config)
    mask = 1 - p[0] >= 0.5
    assert np.array_equal(labels > 0, mask)
    components = connected(mask, connectivity=2)
    for value in range(1, labels.max() + 1):  # connected, and inside one component
        assert connected(labels == value, connectivity=2).max() == 1
        assert np.unique(components[labels == value]).size == 1


# --- settings --------------------------------------------------------------------------


def test_lower_foreground_makes_cells_larger():
    p = probabilities(many(), blur=2)
    areas = [
        (label_objects(p, THREE, InstanceConfig(foreground=f)) > 0).sum()
        for f in (0.2, 0.5, 0.8)
    ]
    assert areas[0] > areas[1] > areas[2]


def test_a_pixel_at_the_threshold_belongs_to_the_cell():
    p = np.full((1, 4, 4), 0.5, np.float32)
    labels = label_objects(p, ONE, InstanceConfig(foreground=0.5, min_size=0))
    assert (labels == 1).all()


@pytest.mark.parametrize("settings", [{}, {"min_confidence": 0.9, "fill_holes": False}])
def test_several_splits_at_once_are_as_each_alone(settings):
    p = probabilities(many(), contact=0.6)
    splits = (0.5, 0, 0.2, 1, 0.5)
    alone = [label_objects(p, THREE, InstanceConfig(split=s, **settings)) for s in splits]
    at_once = label_at_splits(p, THREE, InstanceConfig(**settings), splits)
    for one, other in zip(alone, at_once, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({int(one.max()) for one in alone}) == 3


def test_min_size_drops_smaller_areas_only():
    p = np.zeros((1, 10, 20), np.float32)
    p[0, 2:5, 2:6] = 1  # 12 px
    p[0, 2:5, 10:14] = 1
    p[0, 2, 10] = 0  # 11 px
    labels = label_objects(p, ONE, InstanceConfig(min_size=12))
    assert labels.max() == 1
    assert labels[3, 3] == 1
    assert label_objects(p, ONE, InstanceConfig(min_size=0)).max() == 2


def test_holes_are_filled_and_specks_in_them_swallowed():
    p = np.zeros((1, 30, 30), np.float32)
    p[0, 5:25, 5:25] = 1
    p[0, 10:20, 10:20] = 0
    p[0, 14:16, 14:16] = 1
    config = InstanceConfig(split=0, min_size=12)
    assert (label_objects(p, ONE, config) == 1).sum() == 400
    open_ = label_objects(p, ONE, config.model_copy(update={"fill_holes": False}))
    assert (open_ == 1).sum() == 300


def test_a_hole_between_two_objects_belongs_to_neither():
    labels = np.zeros((7, 9), np.int32)
    labels[1:6, 1:4] = 1
    labels[1:6, 4:8] = 2
    labels[3, 3:5] = 0  # enclosed by both
    labels[2, 6] = 0  # enclosed by the second
    filled = fill_holes(labels)
    assert (filled[3, 3:5] == 0).all()
    assert filled[2, 6] == 2


def test_background_open_to_the_border_is_no_hole():
    labels = np.ones((6, 6), np.int32)
    labels[0:3, 3] = 0
    assert np.array_equal(fill_holes(labels), labels)


def test_border_cells_are_dropped_on_demand():
    p = probabilities(discs((40, 60), (20, 20, 8), (0, 40, 8), (30, 59, 8)))
    assert label_objects(p, THREE, InstanceConfig()).max() == 3
    inner = label_objects(p, THREE, InstanceConfig(remove_border=True))
    assert inner.max() == 1
    assert inner[20, 20] == 1


# --- order, type, determinism ----------------------------------------------------------


def test_labels_are_int32_in_raster_order_without_gaps():
    labels = label_objects(probabilities(many()), THREE, InstanceConfig(min_size=60))
    assert labels.dtype == np.int32
    values, first = np.unique(labels, return_index=True)
    assert np.array_equal(values, np.arange(labels.max() + 1))
    assert (np.diff(first[values > 0]) > 0).all()


def test_relabel_raster_on_gaps():
    labels = np.array([[0, 9, 9], [4, 0, 2], [4, 2, 2]], np.int32)
    assert np.array_equal(relabel_raster(labels), [[0, 1, 1], [2, 0, 3], [2, 3, 3]])


def test_deterministic_whatever_the_memory_layout():
    p = probabilities(many(), contact=0.5)
    expected = label_objects(p, THREE, InstanceConfig())
    for other in (p.copy(), np.asfortranarray(p), p[:, ::-1][:, ::-1], p.astype(np.float64)):
        assert np.array_equal(label_objects(other, THREE, InstanceConfig()), expected)


def test_class_order_is_taken_from_the_names():
    p = probabilities(many())
    turned = label_objects(
        p[[2, 0, 1]], ("boundary", "background", "interior"), InstanceConfig()
    )
    assert np.array_equal(turned, label_objects(p, THREE, InstanceConfig()))


def test_the_input_is_not_changed():
    p = probabilities(many())
    p.flags.writeable = False
    before = p.copy()
    label_objects(p, THREE, InstanceConfig(remove_border=True))
    assert np.array_equal(p, before)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("classes", [THREE, TWO, ONE], ids=len)
@pytest.mark.parametrize("split", [0, 0.5, 1])
def test_degenerate_sizes(shape, classes, split):
    p = np.zeros((len(classes), *shape), np.float32)
    p[-1] = 1  # everything is cell
    config = InstanceConfig(split=split, min_size=0)
    labels = label_objects(p, classes, config)
    assert labels.shape == shape
    assert labels.dtype == np.int32
    assert labels.size == 0 or (labels == 1).all()
    assert (label_objects(np.zeros_like(p[:1]), ONE, config) == 0).all()


def test_nan_is_background():
    p = probabilities(discs((30, 30), (15, 15, 8)))
    p[:, :12] = np.nan
    labels = label_objects(p, THREE, InstanceConfig())
    assert (labels[:12] == 0).all()
    assert labels.max() == 1


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((2, 8, 8), THREE),
        ((8, 8), ONE),
        ((2, 8, 8), ("cat", "dog")),
        ((0, 8, 8), ()),
        ((4, 8, 8), ("background", "interior", "boundary", "boundary")),
        ((1, 8, 8), ("background",)),
    ],
)
def test_unknown_classes_are_refused(shape, classes):
    with pytest.raises(SettingsError, match="class"):
        label_objects(np.zeros(shape, np.float32), classes, InstanceConfig())


# --- basins ----------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.02, 0.3, 0.6, 0.98, 0.9999])
def test_inner_distance_equals_scipy(density):
    rng = np.random.default_rng(0)
    mask = rng.random((150, 170)) < density
    pixels = np.flatnonzero(mask)
    if mask.all():
        mask[75, 80] = False
        pixels = np.flatnonzero(mask)
    expected = ndimage.distance_transform_edt(mask).ravel()[pixels]
    assert np.allclose(inner_distance(mask, pixels), expected, atol=1e-9)


def test_inner_distance_of_a_large_object_equals_scipy():
    mask = discs((300, 300), (150, 150, 120)) > 0
    pixels = np.flatnonzero(mask)
    expected = ndimage.distance_transform_edt(mask).ravel()[pixels]
    assert expected.max() > 100
    assert np.allclose(inner_distance(mask, pixels), expected)


def brute_force_partition(shape, mask, height, depth):
    """Objects by flooding from the highest pixel down, merging by depth at each meeting."""
    order = sorted(np.flatnonzero(mask), key=lambda q: -height[q])
    parent, top = {}, {}

    def root(q):
        while parent[q] != q:
            q = parent[q]
        return q

    alive_pairs = 0
    for q in order:
        parent[q], top[q] = q, height[q]
        y, x = divmod(q, shape[1])
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                yy, xx = y + dy, x + dx
                n = yy * shape[1] + xx
                if not (0 <= yy < shape[0] and 0 <= xx < shape[1]) or n not in parent:
                    continue
                a, b = root(q), root(n)
                if a == b:
                    continue
                low, high = (a, b) if top[a] < top[b] else (b, a)
                if top[low] - height[q] < depth:
                    parent[low] = high
                else:  # a deep pass: they meet but stay two; count the hill and join
                    alive_pairs += 1
                    parent[low] = high
    components = connected(mask.reshape(shape), connectivity=2).max()
    return components + alive_pairs


@pytest.mark.parametrize("depth", [1e-6, 0.05, 0.2, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_merging_keeps_the_hills_that_are_deep_enough(depth, seed):
    """As many objects as there are maxima of at least this dynamic (flooded one by one)."""
    rng = np.random.default_rng(seed)
    shape = (24, 31)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0)
    mask = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0) > -0.1
    pixels = np.flatnonzero(mask)
    basins = Basins(shape, pixels, field.ravel()[pixels])
    group = basins.merged(depth)
    expected = brute_force_partition(shape, mask.ravel(), field.ravel(), depth)
    assert np.unique(group).size == expected


def test_a_plateau_is_one_object():
    pixels = np.arange(30 * 30)
    basins = Basins((30, 30), pixels, np.ones(900))
    assert np.unique(basins.merged(1e-6)).size == 1


def test_small_basins_merge_whatever_their_depth():
    ridge = np.array([0.0, 1, 2, 3, 2, 1, 0, 2.5, 0, 1, 2, 3.5, 3, 2])
    basins = Basins((1, ridge.size), np.arange(ridge.size), ridge)
    assert np.unique(basins.merged(0.5)).size == 3
    assert np.unique(basins.merged(0.5, smallest=4)).size == 2


# --- stacks ----------------------------------------------------------------------------


def link_planes(labels, overlap, out=None):
    linker = PlaneLinker(overlap)
    if out is None:
        out = np.zeros(labels.shape, np.int32)
    for z in range(labels.shape[0]):
        out[z] = linker.add(np.asarray(labels[z]))
    return out


def test_linked_cells_keep_their_label_through_the_stack():
    planes = np.stack(
        [
            discs((40, 60), (20, 15, 8), (20, 45, 8)),
            relabel_sequential(discs((40, 60), (21, 46, 8), (21, 15, 8)))[0],
            discs((40, 60), (30, 30, 5)),
            discs((40, 60), (20, 15, 8)),
        ]
    )
    linked = link_planes(planes, 0.3)
    assert linked.dtype == np.int32
    assert linked[0, 20, 15] == linked[1, 21, 15] == 1
    assert linked[0, 20, 45] == linked[1, 21, 46] == 2
    assert linked[2, 30, 30] == 3
    assert linked[3, 20, 15] == 4  # not in the plane before: a new cell
    assert np.array_equal(linked > 0, planes > 0)


def test_links_are_one_to_one_and_the_best_overlap_wins():
    below = np.zeros((1, 12), int)
    below[0, :12] = 1
    above = np.zeros((1, 12), int)
    above[0, :5] = 1  # IoU 5/12
    above[0, 5:] = 2  # IoU 7/12
    linked = link_planes(np.stack([below, above]), 0.3)
    assert np.array_equal(np.unique(linked[1, 0, 5:]), [1])
    assert np.array_equal(np.unique(linked[1, 0, :5]), [2])


def test_overlap_is_a_lower_bound():
    below = np.zeros((1, 10), int)
    below[0, :4] = 1
    above = np.zeros((1, 10), int)
    above[0, 2:6] = 1  # IoU 2/6
    stack = np.stack([below, above])
    assert link_planes(stack, 1 / 3).max() == 1
    assert link_planes(stack, 0.34).max() == 2


def test_linking_streams_plane_by_plane():
    asked, written = [], {}

    class Planes:
        """Gives planes and remembers which were asked for."""

        shape = (5, 16, 16)

        def __getitem__(self, z):
            asked.append(z)
            return discs((16, 16), (8, 8, 4 + z % 2))

    class Out:
        def __setitem__(self, z, plane):
            written[z] = (list(asked), plane.max())

    link_planes(Planes(), 0.3, out=Out())
    assert [written[z] for z in range(5)] == [(list(range(z + 1)), 1) for z in range(5)]


def test_linker_counts_over_empty_planes():
    linker = PlaneLinker(0.3)
    cell = discs((16, 16), (8, 8, 4))
    assert linker.add(cell).max() == 1
    assert linker.add(cell * 0).max() == 0
    assert linker.add(cell).max() == 2
    assert linker.count == 2


def test_an_empty_stack_links_to_an_empty_stack():
    assert link_planes(np.zeros((0, 4, 4), int), 0.3).shape == (0, 4, 4)
    assert link_planes(np.zeros((2, 0, 4), int), 0.3).shape == (2, 0, 4)


# --- doubtful objects ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "kept"), [(0, 3), (0.79, 3), (0.81, 2), (0.89, 2), (0.91, 1), (1, 0)]
)
def test_objects_of_less_confidence_are_dropped(least, kept):
    cells = discs((40, 120), (20, 20, 12), (20, 60, 12), (20, 100, 12))
    foreground = np.array([0.02, 0.8, 0.9, 0.97])[cells]
    config = InstanceConfig(min_confidence=least)
    labels = label_objects(foreground[None], ONE, config)
    expected = np.where(
        np.isin(cells, [1, 2, 3][3 - kept :]) & (cells > 0), cells - (3 - kept), 0
    )
    np.testing.assert_array_equal(labels, expected)


def test_what_is_kept_has_the_confidence_that_the_table_tells():
    cells = many()
    rng = np.random.default_rng(3)
    sure = np.concatenate([[0.02], rng.uniform(0.6, 1, cells.max())])[cells]
    foreground = (sure * rng.uniform(0.9, 1, cells.shape))[None]
    everything = label_objects(foreground, ONE, InstanceConfig())
    confidence = object_table(everything, foreground[0])["confidence"]
    least = float(confidence.median())
    kept = label_objects(foreground, ONE, InstanceConfig(min_confidence=least))
    assert object_table(kept, foreground[0])["confidence"].min() >= least
    assert kept.max() == (confidence >= least).sum() < everything.max()


def test_a_lower_foreground_drops_no_object_that_was_sure():
    cells = discs((60, 60), (30, 30, 15))
    core = discs((60, 60), (30, 30, 8))
    foreground = np.where(core > 0, 0.95, np.where(cells > 0, 0.4, 0.02))[None]
    for value in (0.8, 0.3):
        config = InstanceConfig(foreground=value, min_confidence=0.9)
        assert label_objects(foreground, ONE, config).max() == 1


@pytest.mark.parametrize("shape", [(9, 12), (1, 1), (0, 5)])
@pytest.mark.parametrize("border", [True, False])
def test_where_nothing_is_seen_there_is_no_object(shape, border) -> None:
    p = np.zeros((3, *shape), np.float32)
    p[0] = 1
    config = InstanceConfig(remove_border=border)
    labels = label_objects(p, THREE, config)
    assert labels.shape == shape
    assert not labels.any()
    assert not label_objects(p, THREE, config.model_copy(update={"min_size": 0})).any()


@pytest.mark.parametrize("side", [(0, 1), (0, -1), (1, 0), (-1, 0)])
@pytest.mark.parametrize(("diagonal", "is_steeper"), [(1.4, False), (1.43, True)])
def test_a_pixel_climbs_where_it_is_steepest(side, diagonal, is_steeper) -> None:
    """A diagonal neighbour is further away."""
    (dy, dx) = side
    corner = (1 - (dy or 1), 1 - (dx or 1))
    heights = {(1, 1): 0.0, (1 + dy, 1 + dx): 1.0, corner: diagonal}
    pixels = np.array(sorted(3 * y + x for y, x in heights))
    field = np.zeros((3, 3))
    for at, height in heights.items():
        field[at] = height
    basins = Basins((3, 3), pixels, field.ravel()[pixels])
    basin = dict(zip(pixels.tolist(), basins.basin.tolist(), strict=True))
    straight = basin[3 * (1 + dy) + 1 + dx]
    assert straight != basin[3 * corner[0] + corner[1]]
    assert (basin[4] != straight) == is_steeper


@pytest.mark.parametrize("split", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("classes", [THREE, TWO])
def test_an_image_that_is_turned_has_the_same_cells(classes, split) -> None:
    """No direction is looked at more than another, and no cell is a special one."""
    rng = np.random.default_rng(5)
    config = InstanceConfig(split=split, min_size=0)
    for _ in range(4):
        noise = ndimage.gaussian_filter(rng.normal(size=(len(classes), 34, 41)), (0, 2, 2))
        probability = np.exp(9 * noise)
        probability = (probability / probability.sum(0)).astype(np.float32)
        labels = label_objects(probability, classes, config)
        assert labels.max() > 1
        for turns in range(4):
            for across in (False, True):
                seen = np.rot90(probability, turns, (1, 2))
                seen = seen[:, :, ::-1] if across else seen
                found = label_objects(seen, classes, config)
                found = found[:, ::-1] if across else found
                found = np.rot90(found, -turns)
                pairs = np.unique(np.stack([labels.ravel(), found.ravel()]), axis=1)
                assert pairs.shape[1] == labels.max() + 1 == found.max() + 1
