"""Order in which the cells of a table are gone through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

#: An object smaller than this share of the median area is a speck: it is all boundary, and so
#: mostly contested, but seldom what a person wants to look at first.
SPECK = 0.25


def ranked(table: pd.DataFrame, column: str) -> list[int]:
    """Labels of a table by a column, the highest first; specks after all others.

    Parameters
    ----------
    table : DataFrame
        With the columns label and `column`; without area_px nothing counts as a speck.
    column : str
        Rows without a value are left out.
    """
    known = table.dropna(subset=[column])
    speck = np.zeros(len(known), bool)
    if "area_px" in known:
        speck = (known["area_px"] < SPECK * known["area_px"].median()).to_numpy(bool)
    order = known.assign(speck=speck).sort_values(
        ["speck", column], ascending=[True, False], kind="stable"
    )
    return [int(label) for label in order["label"]]
