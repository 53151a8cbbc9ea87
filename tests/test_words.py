"""Counts, lists and numbers as a person reads them."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from napari_sa2net.words import counted, listed, plain, plural, signed

SOURCE = Path(__file__).parent.parent / "src" / "napari_sa2net"


def test_counts():
    assert [counted(n, "cell") for n in (0, 1, 2, 6710)] == [
        "0 cells", "1 cell", "2 cells", "6,710 cells",
    ]  # fmt: skip
    assert [plural(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]
    assert counted(2, "point or line", "points or lines") == "2 points or lines"


def _is_plural(node: ast.AST) -> bool:
    """Whether an expression is a word for 1, else the same with an s."""
    if not (isinstance(node, ast.IfExp) and isinstance(node.test, ast.Compare)):
        return False
    one = any(isinstance(n, ast.Constant) and n.value == 1 for n in node.test.comparators)
    ends = [
        end.value if isinstance(end, ast.Constant) else None for end in (node.body, node.orelse)
    ]
    a, b = sorted((str(end) for end in ends), key=len)
    return one and None not in ends and b == f"{a}s"


def test_no_plural_is_written_by_hand():
    found = [
        f"{path.name}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _is_plural(node)
    ]
    assert not found
    (by_hand,) = ast.parse("f\"{n} cell{'' if n == 1 else 's'}\"").body
    assert any(map(_is_plural, ast.walk(by_hand)))


#: What is counted, and never written behind a number but by `counted`.
THINGS = ["cell", "image", "plane", "step", "round", "correction", "weight"]


def _is_count(node: ast.AST) -> bool:
    """Whether it is an f-string with a number, or what could be one, and then a plural."""
    if not isinstance(node, ast.JoinedStr):
        return False
    return any(
        isinstance(value, ast.FormattedValue)
        and not (isinstance(value.value, ast.Attribute) and value.value.attr == "name")
        and isinstance(after, ast.Constant)
        and re.match(rf" ({'|'.join(THINGS)})s\b", str(after.value)) is not None
        for value, after in pairwise(node.values)
    )


def test_nothing_is_counted_by_hand():
    """Else there are "1 cells" one day."""
    found = [
        f"{path.name}:{node.lineno}"
        for room in ("app", "widgets", "cli", "inference", "models")
        for path in (SOURCE / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _is_count(node)
    ]
    assert not found
    (by_hand,) = ast.parse('f"of {n} cells, maybe"').body
    assert any(map(_is_count, ast.walk(by_hand)))


def test_long_lists_are_cut():
    assert listed("abc") == "a, b, c"
    assert listed("abcde") == "a, b, c and 2 more"
    assert listed("abc", 2) == "a, b and 1 more"


@pytest.mark.parametrize(
    ("value", "text"),
    [(6710.4, "6,710"), (96.04, "96"), (0.012345, "0.0123"), (0, "0"), (1.5, "1.5"),
     (999.6, "1,000"), (123456.0, "123,000")],
)  # fmt: skip
def test_numbers_have_no_exponent(value, text):
    assert plain(value) == text


def test_signs():
    assert [signed(n) for n in (-1200, 0, 3)] == ["−1,200", "0", "+3"]
