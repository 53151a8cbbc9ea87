"""Counts, lists and numbers as a person reads them; all that is written to one uses these."""

from __future__ import annotations

import math
from collections.abc import Sequence


def plural(n: int, one: str, many: str = "") -> str:
    """The word for ``n`` of something: ``cell`` for 1, else ``cells`` or what is given."""
    return one if n == 1 else many or f"{one}s"


def counted(n: int, one: str, many: str = "") -> str:
    """``1 cell``, ``6,710 cells``."""
    return f"{n:,} {plural(n, one, many)}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 2 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def signed(n: int) -> str:
    """With a sign, and a true minus."""
    return f"+{n:,}" if n > 0 else f"−{-n:,}" if n < 0 else "0"


def plain(value: float) -> str:
    """Three figures, never an exponent: ``0.0123``, ``96``, ``6,710``."""
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    text = f"{rounded:,.{min(max(digits, 0), 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
