"""A whole study on a handful of synthetic nuclei: its numbers, its rule, its interruptions."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy import stats

from napari_sa2net.data.samples import synthetic_nuclei
from napari_sa2net.errors import Cancelled, SettingsError, TrainingDataError
from napari_sa2net.experiments.focal_study import run as fit_module
from napari_sa2net.experiments.focal_study import scoring
from napari_sa2net.experiments.focal_study.plan import (
    METRICS,
    PRESETS,
    VARIANTS,
    StudySettings,
    as_trained,
    build,
    choose_items,
    gamma_of,
    keep,
    modules_of,
    settings_of,
    title_of,
)
from napari_sa2net.experiments.focal_study.report import conclusion, summarise, t_interval
from napari_sa2net.experiments.focal_study.run import focal_study
from napari_sa2net.experiments.focal_study.scoring import pooled
from napari_sa2net.metrics import pool, score_image
from napari_sa2net.models import load_model
from napari_sa2net.nn import make_network, network_config

#: In two steps γ may go far, so that the rule has something to remove.
SMALL = StudySettings(base_channels=2, steps=2, batch_size=2, crop=32, diameter=12)


def make_folder(folder: Path, index: str | None = None) -> Path:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(5):
        image, labels = synthetic_nuclei((48, 56), n=4, diameter=12, seed=i)
        tifffile.imwrite(folder / "images" / f"n{i}.tif", image)
        tifffile.imwrite(folder / "labels" / f"n{i}.tif", labels.astype(np.uint16))
    if index is not None:
        (folder / "index.csv").write_text(index)
    return folder


INDEX = "split,name,kind\ntrain,n0,a\ntrain,n1,a\nval,n2,b\ntest,n3,a\ntest,n4,b\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"), INDEX)


@pytest.fixture(scope="module", autouse=True)
def quickly_timed() -> Iterator[None]:
    """How long the networks take is measured as seldom as can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("studies") / "study"
    return focal_study(folder, out, SMALL, device="cpu", command="as called"), out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scores_of(out: Path) -> dict:
    runs = json.loads((out / "study.json").read_text())["runs"]
    return {key: (run["gamma"], run["scores"]) for key, run in runs.items()}


def test_a_study_leaves_tables_figure_and_page(finished) -> None:
    study, out = finished
    result = study["result"]
    assert set(result["variants"]) == set(VARIANTS)
    assert set(result["kept"]) | set(result["removed"]) == set(modules_of("sa2net"))
    assert study["images"]["training"] == ["n0", "n1", "n2"]
    assert study["images"]["test"] == ["n3", "n4"]
    parameters = {v: result["variants"][v]["parameters"] for v in VARIANTS}
    assert parameters["none"] <= parameters["chosen"] <= parameters["all"]
    assert parameters["none"] < parameters["all"] == parameters["learnable"]
    assert result["variants"]["none"]["time"]["ratio"] == 1

    table = rows(out / "results.csv")
    assert {r["quantity"] for r in table if not r["minus"]} > set(METRICS)
    dice = {r["variant"]: float(r["value"]) for r in table if r["quantity"] == "dice"
            and not r["minus"]}  # fmt: skip
    (difference,) = (
        r for r in table
        if (r["variant"], r["minus"], r["quantity"]) == ("all", "none", "dice")
    )  # fmt: skip
    assert float(difference["value"]) == pytest.approx(dice["all"] - dice["none"])
    gamma = rows(out / "gamma.csv")
    assert [r["module"] for r in gamma] == list(modules_of("sa2net"))
    for row in gamma:
        median = np.median([float(row[f"seed_{i}"]) for i in range(3)])
        assert row["rule"] == ("kept" if median >= SMALL.threshold else "removed")
    page = (out / "study.md").read_text(encoding="utf-8")
    for words in ("as called", "Our reconstruction", "3 seeds", "torch ", "below 0.5"):
        assert words in page
    assert "ψ4" in (out / "figure.svg").read_text(encoding="utf-8")
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("state.pt")), "finished trainings leave their models alone"


def test_models_of_a_study_are_models(finished, monkeypatch, tmp_path) -> None:
    study, out = finished
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    model = load_model(out / "runs" / "learnable_1" / "model.safetensors")
    gamma = {m: values[1] for m, values in study["result"]["gamma"].items()}
    assert gamma_of(model.net, "sa2net") == pytest.approx(gamma)
    assert any(abs(g - 1) > 0.01 for g in gamma.values()), "γ was learned"
    fixed = load_model(out / "runs" / "all_1" / "model.safetensors")
    assert fixed.card.network.gamma == fixed.card.network.se_gamma == (1, 1, 1, 1)


def test_a_finished_study_is_only_reported_anew(finished, folder) -> None:
    study, out = finished
    (out / "study.md").unlink()
    steps: list[str] = []
    again = focal_study(
        folder, out, SMALL, device="cpu", on_progress=lambda *a: steps.append(a[2])
    )
    assert again == study
    assert not [what for what in steps if "loss" in what or "timing" in what]
    assert (out / "study.md").is_file()


class Killed(BaseException):
    """The process ended without a chance to write anything."""


def test_a_study_broken_off_again_and_again_ends_with_the_same_numbers(
    finished, folder, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "parts"
    seen: set[str] = set()

    def stop_at(*whats: str):
        def cancelled() -> bool:
            return bool(seen & set(whats))

        return cancelled

    def note(_done: int, _total: int, what: str) -> None:
        seen.add(what.split(":")[0])

    # Politely, within the first training after its first step.
    with pytest.raises(Cancelled, match=r"step 1 of 2.*The same command goes on"):
        focal_study(
            folder, out, SMALL, device="cpu",
            on_progress=note, cancelled=stop_at("learnable, seed 0 (1 of 3)"),
        )  # fmt: skip
    assert (out / "runs" / "learnable_0" / "state.pt").is_file()
    assert not (out / "study.md").exists()

    # By force, while scoring, and within a training whose state was written.
    monkeypatch.setattr(fit_module, "SAVE_SECONDS", 0.0)
    for last, times in (
        ("learnable, seed 1 (2 of 3): scoring", 1),
        ("none, seed 0 (1 of 3): loss", 2),
    ):
        whats: list[str] = []

        def kill(
            _done: int, _total: int, what: str,
            last: str = last, times: int = times, whats: list[str] = whats,
        ) -> None:  # fmt: skip
            whats.append(what)
            if sum(w.startswith(last) for w in whats) == times:
                raise Killed

        with pytest.raises(Killed):
            focal_study(folder, out, SMALL, device="cpu", on_progress=kill)
    first: list[tuple[int, str]] = []
    focal_study(
        folder, out, SMALL, device="cpu", on_progress=lambda d, _t, w: first.append((d, w))
    )
    trained = [d for d, what in first if what.startswith("none, seed 0") and "loss" in what]
    assert trained == [2 * 3 + 2], "its first step was in the state"
    assert scores_of(out) == scores_of(finished[1])
    for name in ("gamma.csv", "figure.png"):
        assert (out / name).read_bytes() == (finished[1] / name).read_bytes()


@pytest.mark.parametrize("kind", ["sa2net", "focal_unet"])
def test_a_removed_module_is_one_with_exponent_zero(kind: str) -> None:
    settings = SMALL.model_copy(update={"network": kind, "base_channels": 4})
    names = modules_of(settings.network)
    kept = names[1:3] + names[5:7]
    lean = build(settings, 3, kept, learnable=False).eval()
    whole = build(settings, 3, names, learnable=False)
    config = network_config(whole).model_copy(
        update={"gamma": (0.0, 1.0, 1.0, 0.0), "se_gamma": (0.0, 1.0, 1.0, 0.0)}
    )
    off = make_network(config).eval()
    off.load_state_dict(whole.state_dict())
    assert tuple(gamma_of(lean, settings.network)) == kept
    x = torch.rand(2, 3, 40, 48)
    with torch.inference_mode():
        torch.testing.assert_close(lean(x), off(x), rtol=0, atol=1e-6)
        assert not torch.allclose(lean(x), whole.eval()(x), atol=1e-4)
    learned = build(settings, 3, names, learnable=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(as_trained(learned)(x), whole(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "titles"),
    [("sa2net", "ψ4 ψ3 ψ2 ψ1"), ("focal_unet", "gate 4 gate 3 gate 2 gate 1")],
)
def test_modules_have_names_for_people(kind, titles) -> None:
    named = " ".join(title_of(name) for name in modules_of(kind))
    assert named == f"{titles} SE 4 SE 3 SE 2 SE 1"


@pytest.mark.parametrize(("kind", "waits"), [("cpu", 0), ("cuda", 2), ("mps", 2)])
def test_a_run_is_timed_from_when_nothing_else_runs_until_it_is_done(
    monkeypatch, kind, waits
) -> None:
    order: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append("cuda"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: order.append("mps"))
    device: Any = SimpleNamespace(type=kind)
    assert scoring._seconds(lambda _: order.append("net"), torch.zeros(1), device) >= 0
    assert order == [*[kind] * (waits // 2), "net", *[kind] * (waits // 2)]


def test_variants_of_a_seed_begin_equal_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    nets = [build(SMALL, 1, modules_of("sa2net")[:n], learnable=False) for n in (0, 5, 8)]
    assert torch.equal(torch.rand(1), expected)
    states = [net.state_dict() for net in nets]
    for state in states[:2]:
        assert all(torch.equal(value, states[2][key]) for key, value in state.items())
    assert len(states[0]) < len(states[1]) < len(states[2])
    other = build(SMALL, 2, (), learnable=False).state_dict()
    assert not torch.equal(other["inc.conv.weight"], states[0]["inc.conv.weight"])


def test_the_rule_takes_the_median_over_seeds() -> None:
    gamma = {"psi4": [0.0, 0.1, 3.0], "psi3": [0.4, 0.6, 0.0], "se1": [0.5, 0.5, 0.5]}
    assert keep(gamma, 0.5) == ("se1",)
    assert keep(gamma, 0.05) == ("psi4", "psi3", "se1")
    assert keep(gamma, 4) == ()


@pytest.mark.parametrize(("threshold", "twin"), [(1e-9, "learnable"), (7.9, "none")])
def test_what_would_be_the_same_network_is_not_trained_twice(
    finished, folder, tmp_path, threshold, twin
) -> None:
    # Eight trainings are those of the finished study: only the rule differs.
    out = tmp_path / "out"
    state = json.loads((finished[1] / "study.json").read_text())
    if twin == "learnable":  # a γ of exactly 0 is below any threshold
        for key in ("learnable_0", "learnable_1", "learnable_2"):
            gamma = state["runs"][key]["gamma"]
            gamma.update({m: max(g, 1e-6) for m, g in gamma.items()})
    settings = SMALL.model_copy(update={"threshold": threshold})
    state["settings"] = settings.model_dump(mode="json")
    state["runs"] = {k: v for k, v in state["runs"].items() if not k.startswith("chosen")}
    del state["time"], state["result"]
    out.mkdir()
    (out / "study.json").write_text(json.dumps(state))
    (out / "runs").symlink_to(finished[1] / "runs")
    study = focal_study(folder, out, settings, device="cpu")
    result = study["result"]
    assert result["chosen_is"] == twin
    assert not [key for key in study["runs"] if key.startswith("chosen")]
    assert result["variants"]["chosen"]["dice"] == result["variants"][twin]["dice"]
    same = [d for d in result["differences"] if d["verdict"] == "the same network"]
    assert {(d["of"], d["against"]) for d in same} == {("chosen", twin)}
    assert all(d["low"] == d["high"] == d["images_low"] == d["images_high"] == 0 for d in same)
    text = (out / "study.md").read_text(encoding="utf-8")
    assert f"so chosen is {twin}" in text
    assert f"- **chosen**: the modules that the rule keeps, which is **{twin}**" in text


def test_another_threshold_applies_to_what_was_learned(finished, folder, tmp_path) -> None:
    before, source = finished
    out = tmp_path / "out"
    shutil.copytree(source, out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    settings = SMALL.model_copy(update={"threshold": 7.9})
    study = focal_study(folder, out, settings, device="cpu", command="again --threshold 7.9")
    assert study["result"]["kept"] == []
    assert study["settings"]["threshold"] == 7.9
    assert study["command"] == "again --threshold 7.9"
    assert study["result"]["gamma"] == before["result"]["gamma"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert "below 7.9" in (out / "study.md").read_text(encoding="utf-8")


def test_a_study_that_learned_nothing_says_so(finished) -> None:
    state = json.loads((finished[1] / "study.json").read_text())
    assert ("train longer" in conclusion(state)) is not any(
        one["dice"]["mean"] for one in state["result"]["variants"].values()
    )
    for found in state["result"]["variants"].values():
        found["dice"]["mean"] = 0.0
    assert "train longer (--steps)" in conclusion(state)
    state["result"]["variants"]["all"]["dice"]["mean"] = 0.1
    assert "train longer" not in conclusion(state)


# --- statistics ------------------------------------------------------------------------


def test_pooled_scores_are_those_of_the_metrics() -> None:
    ones = [
        score_image(
            synthetic_nuclei((64, 64), seed=i)[1], synthetic_nuclei((64, 64), seed=j)[1]
        )
        for i, j in ((0, 0), (1, 2), (3, 3))
    ]
    scores = {
        "matches": [[[m.tp, m.fp, m.fn] for m in one.matches] for one in ones],
        "dice": [one.dice for one in ones],
        "iou": [one.iou for one in ones],
    }
    expected = pool(ones)
    assert {m: v[0] for m, v in pooled(scores).items()} == pytest.approx(
        {m: expected[m] for m in METRICS}
    )
    twice = pooled(scores, np.array([[0, 2, 1]]))
    again = pool([ones[1], ones[1], ones[2]])
    assert twice["ap50"][0] == pytest.approx(again["ap50"])
    assert twice["dice"][0] == pytest.approx(again["dice"])


def test_t_interval_is_students() -> None:
    values = [0.7, 0.74, 0.69]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values)[1:] == pytest.approx(expected)
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_a_verdict_needs_both_intervals() -> None:
    def scores(dice: list[float]) -> dict:
        return {"matches": [[[5, 0, 0]] * 9] * len(dice), "dice": dice, "iou": dice}

    base = [0.5, 0.6, 0.7, 0.6, 0.5, 0.7, 0.6, 0.6]
    better = [d + 0.1 for d in base]
    # The same gain in every seed, but all of it from one image.
    one = [*base[:-1], 0.99]
    variants, differences = summarise(
        {
            "none": [scores(base)] * 3,
            "all": [scores([d + e for d in better]) for e in (0, 0.01, 0.02)],
            "learnable": [scores([d + e for d in one]) for e in (0, 0.001, 0.002)],
            "chosen": [scores(base), scores(better), scores([d - 0.08 for d in base])],
        }
    )
    found = {(d["of"], d["against"], d["metric"]): d for d in differences}
    assert variants["all"]["dice"]["mean"] == pytest.approx(0.71)
    assert found["all", "none", "dice"]["verdict"] == "higher"
    assert found["all", "none", "ap50"]["verdict"] == "not told apart"
    alone = found["learnable", "none", "dice"]
    assert alone["low"] > 0
    assert alone["images_low"] < 0.02
    assert found["chosen", "none", "dice"]["verdict"] == "not told apart", "seeds disagree"
    low, high = [scores(base)] * 3, [scores(better)] * 3
    _, turned = summarise({"none": high, "all": low, "learnable": high, "chosen": high})
    assert {d["verdict"] for d in turned if (d["of"], d["metric"]) == ("all", "dice")} == {
        "lower"
    }


# --- what is asked ---------------------------------------------------------------------


def test_without_test_rows_whole_groups_are_held_out(tmp_path) -> None:
    index = "split,name,group\ntrain,n0,g\ntrain,n1,g\ntrain,n2,h\nval,n3,i\ntrain,n4,i2\n"
    folder = make_folder(tmp_path / "data", index)
    training, test, named = choose_items(folder, SMALL)
    assert not named
    assert {i.name for i in training} | {i.name for i in test} == {f"n{i}" for i in range(5)}
    assert not {i.group for i in training} & {i.group for i in test}
    assert choose_items(folder, SMALL) == (training, test, named)


def test_a_kind_and_a_number_of_images_can_be_chosen(folder) -> None:
    kind = SMALL.model_copy(update={"kind": "a"})
    training, test, named = choose_items(folder, kind)
    assert [i.name for i in training] == ["n0", "n1"]
    assert [i.name for i in test] == ["n3"]
    assert named
    few = choose_items(folder, SMALL.model_copy(update={"images": 2}))
    assert [len(side) for side in few[:2]] == [2, 2]


def test_test_images_of_real_data_are_never_trained_on(shared_dir) -> None:
    data = shared_dir / "data" / "dsb2018"
    for kind, n_test in (("fluo", 60), ("rgb", 13)):
        training, test, named = choose_items(data, settings_of("cpu", kind=kind))
        assert named
        assert len(training) == 60
        assert len(test) == n_test
        assert {i.image.parent.parent.name for i in training} == {"train"}
        assert {i.image.parent.parent.name for i in test} == {"test"}


def test_presets_are_within_what_is_promised() -> None:
    cpu = settings_of("cpu")
    assert (cpu.base_channels, cpu.images, cpu.seeds) == (8, 60, 3)
    for name in PRESETS:
        assert settings_of(name).seeds >= 3
    assert settings_of("full", steps=7, images=None).steps == 7


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"seeds": 2}, "--seeds.*greater than or equal to 3"),
        ({"base_channels": 0}, "--base:"),
        ({"crop": 100}, "--crop.*multiple of 16"),
        ({"preset": "gpu"}, "cpu or full"),
    ],
)
def test_settings_out_of_bounds_say_so(said, words) -> None:
    with pytest.raises(SettingsError, match=words):
        settings_of(**said)


def test_bad_input_leaves_nothing_behind(folder, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TrainingDataError, match=r"kind 'c'.*a, b"):
        focal_study(folder, out, SMALL.model_copy(update={"kind": "c"}), device="cpu")
    with pytest.raises(TrainingDataError, match="not a folder"):
        focal_study(tmp_path / "nowhere", out, SMALL, device="cpu")
    torn = make_folder(tmp_path / "torn", "split,name,group\ntrain,n0,g\ntest,n1,g\n")
    with pytest.raises(TrainingDataError, match="'g' is in split test and in split train"):
        focal_study(torn, out, SMALL, device="cpu")
    alone = make_folder(tmp_path / "alone", "split,name\ntest,n1\n")
    with pytest.raises(TrainingDataError, match="test images alone"):
        focal_study(alone, out, SMALL, device="cpu")
    empty = make_folder(tmp_path / "empty", INDEX)
    for name in ("n3", "n4"):
        tifffile.imwrite(empty / "labels" / f"{name}.tif", np.zeros((48, 56), np.uint16))
    with pytest.raises(TrainingDataError, match="measured on has a labelled object"):
        focal_study(empty, out, SMALL, device="cpu")
    assert not out.exists()
