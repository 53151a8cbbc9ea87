"""What if: the ordinary run where nothing is changed, and only what is touched runs again."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.config import PredictConfig
from napari_sa2net.data import plan_image, synthetic_nuclei
from napari_sa2net.errors import Cancelled, SettingsError
from napari_sa2net.inference import predict as pooling
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.interpret.attention import WhatIfRun
from napari_sa2net.interpret.explain import explain_plane
from napari_sa2net.models import Model, load_model
from napari_sa2net.models.card import ModelCard
from napari_sa2net.nn import network_config, pooled_statistics

CLASSES = ("background", "interior", "boundary")
GATES_OFF = (False, True, True, False)
GAMMA = (0.0, 1.0, 2.0, 1.0)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return synthetic_nuclei((100, 400), 30, seed=4)[0]


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 1.0), ({"precision": "float32"}, 0.8), ({"augment": True, "tile": 320}, 1.0)],
    ids=["auto", "float32", "flips"],
)
def test_defaults_are_the_ordinary_run(
    make_model, image: np.ndarray, settings: dict, scale: float
) -> None:
    predictor = Predictor(make_model(), PredictConfig(device="cpu", **settings))
    plan = plan_image(image)
    for box in (None, (30, 80, 250, 390)):
        ordinary = explain_plane(predictor, plan, (), scale, box=box).probability
        run = WhatIfRun(predictor, plan, (), scale, box)
        np.testing.assert_array_equal(run.run(), ordinary)
        assert not run.from_cache
        changed = run.run(GATES_OFF, GAMMA)
        assert run.from_cache
        assert np.abs(changed - ordinary).max() > 1e-3
        np.testing.assert_array_equal(run.run(), ordinary)
        # The same as without any cache, and as the first run of another box.
        bare = WhatIfRun(predictor, plan, (), scale, box, max_bytes=0)
        np.testing.assert_array_equal(bare.run(GATES_OFF, GAMMA), changed)
        assert bare.n_bytes == 0


def test_of_a_stack(make_model, image: np.ndarray) -> None:
    predictor = Predictor(make_model(), PredictConfig(device="cpu"))
    plan = plan_image(np.stack([image, image[::-1]])[None], axes="TZYX")
    first, second = (
        WhatIfRun(predictor, plan, (0, z), box=(0, 90, 0, 90)).run() for z in (0, 1)
    )
    alone = WhatIfRun(predictor, plan, (0, 1), box=(0, 90, 0, 90)).run()
    np.testing.assert_array_equal(second, alone)
    assert np.abs(first - second).max() > 1e-3


def test_what_does_not_fit_runs_as_a_whole(make_model, image: np.ndarray) -> None:
    predictor = Predictor(make_model(), PredictConfig(device="cpu", tile=320))
    plan = plan_image(image)
    free = WhatIfRun(predictor, plan)
    free.run()
    bound = WhatIfRun(predictor, plan, max_bytes=free.n_bytes // 2)
    bound.run()
    assert 0 < bound.n_bytes <= free.n_bytes // 2
    np.testing.assert_array_equal(bound.run(GATES_OFF), free.run(GATES_OFF))
    assert free.from_cache
    assert not bound.from_cache


def test_only_what_is_touched_runs(make_model, image: np.ndarray) -> None:
    """The encoder does not run again, nor do stages before the first that is changed."""
    predictor = Predictor(make_model(), PredictConfig(device="cpu"))
    run = WhatIfRun(predictor, plan_image(image))
    run.run()
    net, calls = predictor._net, []
    for name in ("encode", "local", "mix", "attended", "attention", "up"):
        method = getattr(net, name)

        def counted(*args, name=name, method=method):
            calls.append(name if name in ("encode", "mix") else f"{name}{args[0]}")
            return method(*args)

        setattr(net, name, counted)
    run.run(gamma=(1, 1, 0.5, 1))
    assert calls == ["up2", "attention3", "up3"]
    calls.clear()
    run.run(gates=(False, True, True, True))
    assert calls == ["attention3", "up3"]
    calls.clear()
    run.run()
    assert calls == []


def test_the_whole_image_is_pooled_once(
    make_network, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channel weights with another γ need no second look at the whole image."""
    net = make_network(4, se=(True,) * 4, se_gamma=(2.0, 1.0, 0.5, 0.0))
    card = ModelCard(name="se", network=network_config(net), classes=CLASSES)
    predictor = Predictor(Model(net, card), PredictConfig(device="cpu", tile=320))
    plan, box = plan_image(image), (30, 80, 250, 390)
    run, calls = WhatIfRun(predictor, plan, box=box), []

    def counted(*args):
        calls.append(args)
        return pooled_statistics(*args)

    monkeypatch.setattr(pooling, "pooled_statistics", counted)
    ordinary = explain_plane(predictor, plan, box=box).probability
    np.testing.assert_array_equal(run.run(), ordinary)
    off = run.run(se_gamma=(0, 0, 0, None))
    assert run.from_cache
    assert len(calls) == 2, "once for the prediction, once for all what-ifs"
    assert np.abs(off - ordinary).max() > 1e-4
    bare = WhatIfRun(predictor, plan, box=box, max_bytes=0)
    np.testing.assert_array_equal(bare.run(se_gamma=(0, 0, 0, None)), off)
    np.testing.assert_array_equal(run.run(), ordinary)


def test_off_is_what_it_is_said_to_be() -> None:
    """γ = 0 lets everything through; the bundled network then finds other borders."""
    model = load_model("nuclei")
    image = synthetic_nuclei((200, 200), 25, diameter=33, seed=1)[0]
    plan = plan_image(image, model_input=model.card.input)
    run = WhatIfRun(Predictor(model, PredictConfig(device="cpu")), plan)
    ordinary, off = run.run(), run.run((False,) * 4, (0, 0, 0, 0))
    sharper = run.run(gamma=(1, 1, 1, 3))
    for other in (off, sharper):
        assert (np.argmax(other, 0) != np.argmax(ordinary, 0)).mean() > 0.01
    np.testing.assert_allclose(off[: len(CLASSES)].sum(0), 1, atol=1e-3)


def test_flat_images(make_model) -> None:
    predictor = Predictor(make_model(), PredictConfig(device="cpu"))
    for shape in ((0, 5), (30, 40)):
        out = WhatIfRun(predictor, plan_image(np.zeros(shape))).run(GATES_OFF)
        assert out.shape == (3, *shape)
        assert (out[0] == 1).all()


def test_bad_settings(make_model, image: np.ndarray) -> None:
    run = WhatIfRun(Predictor(make_model(), PredictConfig(device="cpu")), plan_image(image))
    for gamma in ((1, 1, 1, -1), (1, 1, 1, np.nan), (9, 1, 1, 1)):
        with pytest.raises(SettingsError, match="between 0 and 8"):
            run.run(gamma=gamma)
        with pytest.raises(SettingsError, match="between 0 and 8"):
            run.run(se_gamma=gamma)
    with pytest.raises(SettingsError, match="four"):
        run.run(gates=(True, True))
    with pytest.raises(Cancelled):
        run.run(cancelled=lambda: True)


def test_less_memory(make_model, image: np.ndarray) -> None:
    """Out of memory in the middle: smaller tiles, nothing kept, and still an answer."""
    predictor = Predictor(make_model(), PredictConfig(device="cpu", tile=512))
    run = WhatIfRun(predictor, plan_image(image))
    expected = run.run(GATES_OFF)
    net = predictor._net

    def small_memory(x, *rest):
        if max(x.shape[-2:]) > 350:
            raise MemoryError
        return net(x, *rest)

    predictor._net = small_memory
    again = run.run(GATES_OFF)
    assert predictor.tile < 400
    assert run.n_bytes == 0
    assert np.abs(again - expected).mean() < 1e-3
    bare = WhatIfRun(predictor, plan_image(image), max_bytes=0)
    np.testing.assert_array_equal(bare.run(GATES_OFF), again)
