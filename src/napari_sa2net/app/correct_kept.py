"""What the corrections of a layer have kept so far in a training set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from napari_sa2net.app.correct_session import EditSession
from napari_sa2net.app.correct_source import Index


@dataclass(frozen=True)
class KeptVersion:
    """The version of a plane that was kept last.

    Attributes
    ----------
    commit
        Its id.
    changed
        How often the plane had been changed then.
    group
        It was kept with.
    """

    commit: str
    changed: int
    group: str


@dataclass
class KeptPlanes:
    """Planes that a session has kept in one folder.

    Attributes
    ----------
    planes
        The last version of each.
    commits
        Ids of all versions of each plane, also of those that were withdrawn.
    """

    planes: dict[Index, KeptVersion] = field(default_factory=dict)
    commits: dict[Index, list[str]] = field(default_factory=dict)

    @property
    def mine(self) -> frozenset[str]:
        """All commits of the session: they hold nothing that it does not hold itself."""
        return frozenset(one for ids in self.commits.values() for one in ids)

    def due(self, session: EditSession, group: str) -> tuple[list[Index], list[Index]]:
        """Planes to keep, and planes that were kept and of which nothing is reviewed now."""
        reviewed = session.reviewed_planes()
        new = [index for index in reviewed if self._is_new(session, index, group)]
        return new, [index for index in self.planes if index not in reviewed]

    def copy(self) -> KeptPlanes:
        """As it is now."""
        commits = {index: list(ids) for index, ids in self.commits.items()}
        return KeptPlanes(dict(self.planes), commits)

    def add(self, index: Index, version: KeptVersion) -> None:
        """A plane was kept."""
        self.planes[index] = version
        self.commits.setdefault(index, []).append(version.commit)

    def withdraw(self, index: Index) -> None:
        """A plane was taken back."""
        self.planes.pop(index, None)

    def forget(self, commits: Iterable[str]) -> None:
        """These commits are not in the folder any more: their planes are to be kept anew."""
        gone = set(commits)
        for index, version in list(self.planes.items()):
            if version.commit in gone:
                del self.planes[index]

    def _is_new(self, session: EditSession, index: Index, group: str) -> bool:
        version = self.planes.get(index)
        return (
            version is None
            or version.changed != session.changed.get(index, 0)
            or version.group != group
        )
