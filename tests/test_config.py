"""Settings mean what they have always meant: defaults, and what is out of bounds."""

from __future__ import annotations

import ast
import operator
import re
from typing import Any

import pytest
from pydantic import ValidationError

from napari_sa2net import config

#: A model card or a command of an earlier version says nothing of what was left as it was, so
#: none of these changes without a word in the changelog. After ``;`` are bounds, % a multiple.
AS_WRITTEN = """
NetworkConfig:
  kind = 'sa2net'
  in_channels = 3; >=1 <=1024
  n_classes = 3; >=1 <=1024
  base_channels = 16; >=1 <=1024
  gamma = (1.0, 1.0, 1.0, 1.0)
  gates = (True, True, True, True)
  se = (False, False, False, False)
  se_gamma = (1.0, 1.0, 1.0, 1.0)
  scales = (True, True, True, True)
InputConfig:
  channel_order = 'RGB'
  normalization = 'percentile'
  low = 1.0; >=0 <50
  high = 99.8; >50 <=100
  divisor = 255.0; >0
  resize_to = None; >=16
  antialias = False
InstanceConfig:
  foreground = 0.5; >=0.02 <=0.98
  split = 0.5; >=0 <=1
  min_size = 10; >=0
  min_confidence = 0.0; >=0 <=1
  fill_holes = True
  remove_border = False
  link_planes = True
  link_overlap = 0.3; >0 <=1
PredictConfig:
  diameter = None; >0.5 <=10000
  rescale = True
  device = 'auto'
  precision = 'auto'
  engine = 'auto'
  tile = None; >=64 <=16384 %16
  levels = 'auto'
  dab = 'auto'
  contrast = None
  adapt = 'auto'
  augment = False
  tissue = False
UnifiedFocalConfig:
  weight = 0.5; >=0 <=1
  delta = 0.6; >=0 <=1
  gamma = 0.5; >=0 <1
  asymmetric = True
  distance_gamma = 0.0; >=0 <=8
TrainConfig:
  loss = 'dice_ce'
  boundary_weight = 2.0; >0 <=100
  head_weights = (1.0, 0.5, 0.3, 0.2)
  network = None
  learnable_gamma = False
  squeeze_excitation = None
  distance = True
  base_channels = None; >=1 <=256
  steps = 4000; >=1
  batch_size = 8; >=1 <=256
  crop = 256; >=32 <=2048 %16
  diameter = 24.0; >=4 <=256
  learning_rate = 0.002; >0 <=1
  weight_decay = 0.01; >=0 <=1
  warmup = 0.05; >=0 <1
  ema_decay = 0.999; >=0 <1
  kind_weights = {}
  augmentation = 'wide'
  wide_share = 1.0; >=0 <=1
  touching_weight = 0.0; >=0 <=100
  hard_share = 0.0; >=0 <=1
  validate_every = 250; >=1
  validation_fraction = 0.1; >0 <1
  max_validation_images = 48; >=1
  precision = 'auto'
  device = 'auto'
  devices = 1; >=1 <=64
  workers = 0; >=0 <=64
  seed = 0; >=0
  base = None
  resume = None
LiveConfig:
  steps = 50; >=1 <=1000
  seconds = 20.0; >0
  batch = 1; >=1 <=16
  window = 192; >=64 <=1024 %16
  learning_rate = 0.002; >0 <=1
  distillation = 1.0; >=0
  turned = 2; >=1 <=8
  seed = 0
FineTuneConfig:
  loss = 'dice_ce'
  boundary_weight = 2.0; >0 <=100
  head_weights = (1.0, 0.5, 0.3, 0.2)
  minutes = 3.0; >0 <=1440
  learn = 'everything'
  steps = None; >=1 <=1000000
  rounds = 8; >=1 <=1000
  patience = 4; >=1 <=1000
  held_out = 0.2; >0 <1
  learning_rate = 0.002; >0 <=1
  encoder_rate = 1.0; >=0 <=1
  decoder_first = 0.15; >=0 <=1
  warmup = 0.05; >=0 <1
  freeze_norm = True
  replay = 0.25; >=0 <=0.9
  distillation = 3.0; >=0 <=100
  confidence = 0.5; >=0 <1
  batch_size = 4; >=1 <=256
  crop = 192; >=32 <=2048 %16
  weight_decay = 0.01; >=0 <=1
  ema_decay = 0.97; >=0 <1
  max_scored = 24; >=1 <=1000
  precision = 'auto'
  device = 'auto'
  seed = 0; >=0
"""

COMPARED = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "%": lambda value, step: value % step == 0,
}


def lines() -> list[tuple[str, str, Any, list[tuple[str, float]]]]:
    """Class, setting, default, and bounds as sign and number."""
    found, kind = [], ""
    for line in AS_WRITTEN.strip().splitlines():
        if line.endswith(":"):
            kind = line[:-1]
            continue
        name, _, rest = line.strip().partition(" = ")
        default, _, bounds = rest.partition("; ")
        limits = [(sign, float(at)) for sign, at in re.findall(r"([<>]=?|%)(\S+)", bounds)]
        found.append((kind, name, ast.literal_eval(default), limits))
    return found


@pytest.mark.parametrize(("kind", "name", "default", "limits"), lines())
def test_defaults_and_bounds(kind, name, default, limits) -> None:
    settings = getattr(config, kind)
    assert getattr(settings(), name) == default
    assert type(getattr(settings(), name)) is type(default)
    if default is not None:
        assert getattr(settings(**{name: default}), name) == default
    whole = isinstance(default, int) or settings.model_fields[name].annotation in (
        int,
        int | None,
    )
    step = next((int(at) for sign, at in limits if sign == "%"), 1) if whole else 1e-3
    for _, at in limits:
        for value in (at - step, at, at + step):
            value = int(value) if whole else value
            if all(COMPARED[sign](value, limit) for sign, limit in limits):
                assert getattr(settings(**{name: value}), name) == value
            else:
                with pytest.raises(ValidationError):
                    settings(**{name: value})


def test_every_setting_is_written_down() -> None:
    written: dict[str, set[str]] = {}
    for kind, name, _, _ in lines():
        written.setdefault(kind, set()).add(name)
    for kind, names in written.items():
        assert names == set(getattr(config, kind).model_fields) - {"unified_focal"}


def test_where_attention_alone_learns_what_is_not_said_is_for_seconds():
    quick, usual = config.FineTuneConfig(learn="attention"), config.FineTuneConfig()
    assert (quick.minutes, quick.rounds, quick.replay) == (0.25, 2, 0)
    assert (quick.crop, quick.max_scored) == (128, 4)
    assert usual.max_scored > 4
    said = config.FineTuneConfig(learn="attention", minutes=3, max_scored=9)
    assert (said.minutes, said.rounds, said.max_scored) == (3, 2, 9)
    # as it goes into a card and comes back
    assert config.FineTuneConfig.model_validate(said.model_dump()) == said
