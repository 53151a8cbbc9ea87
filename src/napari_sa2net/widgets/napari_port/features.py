"""The object table in a layer's features, so that everyone finds a cell's row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from napari.layers import Labels

#: What tells in ``layer.metadata`` which columns of the features are ours.
COLUMNS_KEY = "napari-sa2net columns"
LABEL = "label"
#: What napari calls the column that names labels; of the two a table needs one.
INDEX = "index"

#: Columns of others by label, also of cells that are gone: undoing brings them back.
_THEIRS: WeakKeyDictionary[Labels, pd.DataFrame] = WeakKeyDictionary()


def set_features(layer: Labels, table: Mapping[str, Any]) -> None:
    """Put the object table into a layer's features, one row for each of its labels.

    Columns of which nothing is known are left out. Columns that a person or a script has
    added stay, each value with its label.
    """
    import pandas as pd

    ours = {name: np.asarray(column) for name, column in table.items()}
    shown = {
        name: column
        for name, column in ours.items()
        if name == LABEL or not (name.startswith("box_") or _unknown(column))
    }
    new = pd.DataFrame(shown)
    former, before = layer.features, set(layer.metadata.get(COLUMNS_KEY, ()))
    theirs = [name for name in former.columns if name not in {*before, *ours, INDEX}]
    if theirs:
        rows = former[theirs].set_axis(labels_of(former), axis="index")
        if layer in _THEIRS:
            rows = pd.concat([rows, _THEIRS[layer].reindex(columns=theirs)])
        _THEIRS[layer] = rows = rows[~rows.index.duplicated()]
        new = pd.concat([new, rows.reindex(new[LABEL]).reset_index(drop=True)], axis=1)
    layer.metadata = {**layer.metadata, COLUMNS_KEY: sorted(shown)}
    layer.features = new
    link_rows(layer)


def labels_of(features: pd.DataFrame) -> Any:
    """Labels that the rows of a table are about, as napari counts them where none says."""
    for name in (LABEL, INDEX):
        if name in features.columns:
            return features[name].to_numpy()
    return np.arange(len(features))


def link_rows(layer: Labels) -> None:
    """Have napari find the row of a cell by its label, not by its position in the table.

    It looks for a column "index" only. Where its inside is not as expected, there is one.
    """
    features = layer.features
    if LABEL not in features.columns or INDEX in features.columns:
        return
    rows = {int(label): i for i, label in enumerate(features[LABEL].tolist())}
    if isinstance(getattr(layer, "_label_index", None), dict):
        layer._label_index = rows
    else:
        layer.features = features.rename(columns={LABEL: INDEX})


def _unknown(column: Any) -> bool:
    """A column without a value, as of sizes in µm where the pixel size is unknown."""
    return bool(column.size and column.dtype.kind == "f" and np.isnan(column).all())
