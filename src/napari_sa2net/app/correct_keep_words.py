"""What the page says after a Keep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from napari_sa2net.app.correct_keep import KeepResult, WhatToKeep
from napari_sa2net.app.correct_restore import moment_words
from napari_sa2net.data.manifest import CommitRecord

#: commits that are named
_NAMED = 3


def kept_words(folder: Path, what: WhatToKeep) -> str:
    """``Kept 12 reviewed cells of 2 planes in “my set”.``"""
    kept = taken = ""
    if what.n_planes:
        planes = f" of {what.n_planes} {what.noun}s" if what.n_planes > 1 else ""
        kept = f"Kept {what.cells}{planes} in “{folder.name}”."
    if what.n_withdrawn:
        taken = f"Took {what.withdrawn} back out of “{folder.name}”."
    return f"{kept} {taken}".strip()


def before_words(folder: Path, records: Sequence[CommitRecord], now: datetime) -> str:
    """``Kept before in “my set”: 12 reviewed cells of this image, the last today 17:03.``"""
    n = sum(record.n_reviewed for record in records)
    last = max(datetime.fromisoformat(record.time) for record in records)
    return (
        f"Kept before in “{folder.name}”: {n} reviewed cell{'' if n == 1 else 's'} of this "
        f"image, the last {moment_words(last, now)}. What you keep now is added to them, and "
        "takes the place of those that you review anew."
    )


def gone_words(folder: Path, whole: bool) -> str:
    """What a person has to know where a folder did not hold what was kept there."""
    if whole:
        return (
            f"The folder “{folder.name}” was gone, so it was made anew, with everything that "
            "is reviewed here. What was kept in it of other images is not there: if you moved "
            "the folder, choose it at its new place and keep there."
        )
    return (
        f"The folder “{folder.name}” did not hold what you had kept there of this image, so "
        "that was kept again."
    )


def meanwhile_words(folder: Path, result: KeepResult, now: datetime) -> str:
    """What was kept in another window meanwhile, and how to get it back."""
    sentences = []
    if result.replaced:
        names = _named(result.replaced, now)
        many = len(result.replaced) > 1
        sentences.append(
            f"Meanwhile {names} kept in another window. "
            f"{'Those versions are' if many else 'That version is'} in “earlier” of the "
            f"folder now. To have {'one' if many else 'it'} back in place of yours, on the "
            "shell beside the folder: "
            f'sa2net corrections restore "{folder.name}" {result.replaced[0].id[:8]}'
        )
    if result.left:
        names = _named(result.left, now)
        sentences.append(
            f"Meanwhile {names} kept in another window, and that stays in the training set. "
            "To take it out, on the shell beside the folder: "
            f'sa2net corrections remove "{folder.name}" {result.left[0].id[:8]}'
        )
    return " ".join(sentences)


def _named(records: tuple[CommitRecord, ...], now: datetime) -> str:
    """``version 3f2a91bc (today 17:03) was``, or several of them."""
    named = [
        f"{record.id[:8]} ({moment_words(datetime.fromisoformat(record.time), now)})"
        for record in records[:_NAMED]
    ]
    more = len(records) - len(named)
    if more:
        named.append(f"{more} more")
    if len(records) == 1:
        return f"version {named[0]} was"
    return f"versions {', '.join(named)} were"
