"""What a run of learning tells the window, gathered so that it is not told too often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from napari_sa2net.engine import messages as p
from napari_sa2net.engine import service
from napari_sa2net.training.compare import LossPoint, Notice, Planned


class Server:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(service.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def news(clock: list[float]) -> Any:
    return service._RunNews(Server(), 7, Path("run"))  # type: ignore[arg-type]


def test_losses_are_told_together_and_all_else_at_once(news: Any, clock: list[float]) -> None:
    sent = news._server.sent
    points = [LossPoint(step, 9, 1.0 + step, 0.5) for step in range(6)]
    news(points[0])
    assert [m.losses for m in sent] == [(points[0],)]
    news(points[1])
    clock[0] += 0.9 * service.PERIOD
    news(points[2])
    assert len(sent) == 1
    clock[0] += 0.1 * service.PERIOD + 1e-6
    news(points[3])
    assert [m.losses for m in sent] == [(points[0],), (points[1], points[2], points[3])]
    news(points[4])
    plan = Planned(*range(len(Planned.__dataclass_fields__)))
    news(plan)
    news(Notice("less memory"))
    assert [(m.plan, m.losses, m.notices) for m in sent[2:]] == [
        (plan, (points[4],), ()),
        (None, (), ("less memory",)),
    ]
    assert {(m.job, m.run) for m in sent} == {(7, "run")}
    news.flush()  # nothing has gathered
    assert len(sent) == 4


def test_progress_is_told_now_and_then_and_at_the_end(news: Any, clock: list[float]) -> None:
    sent = news._server.sent
    news.progress(1, 9, "reading")
    news.progress(2, 9, "reading")  # no loss waits: nothing is said for it
    news(LossPoint(0, 9, 1.0, 0.5))
    news(LossPoint(1, 9, 1.0, 0.5))  # waits
    sent.clear()
    news.progress(3, 9, "learning")
    assert not sent
    news.progress(9, 9, "learning")
    clock[0] += service.PERIOD
    news.progress(4, 9, "learning")
    assert sent == [p.Progress(7, 9, 9, "learning"), p.Progress(7, 4, 9, "learning")]


def test_a_run_that_goes_on_tells_its_curves_anew(news: Any) -> None:
    news.repeat({"losses": [vars(LossPoint(3, 9, 1.0, 0.5))], "rounds": []})
    (told,) = news._server.sent
    assert told.losses == (LossPoint(3, 9, 1.0, 0.5),)
    assert told.rounds == ()
