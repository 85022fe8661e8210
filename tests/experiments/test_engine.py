import io
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from counterpoint.errors import Error
from counterpoint.experiments import engine
from counterpoint.experiments.engine import Estimate, Job, Log, run


class Workshop:
    """Makes jobs that leave a file, and keeps which were done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []

    def job(self, name: str, *needs: Job, kind: str = "", fails: bool = False) -> Job:
        path = self.folder / f"{name}.txt"

        def work() -> str:
            if fails:
                raise RuntimeError("out of paper")
            self.done.append(name)
            path.write_text(name)
            return f"made {name}"

        return Job(name, kind or name, path, work, needs, lambda: 100.0)

    def run(self, *jobs: Job) -> str:
        text = io.StringIO()
        run(jobs, self.folder, Console(file=text, width=100), {"commit": "abc"})
        return text.getvalue()


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_each_after_what_it_needs(workshop: Workshop) -> None:
    a = workshop.job("a")
    b = workshop.job("b", a)
    printed = workshop.run(b, a)  # in an order that does not suit
    assert workshop.done == ["a", "b"]
    assert "[1/2] a" in printed
    assert "made b" in printed
    assert [(line["job"], line["commit"]) for line in Log(workshop.folder).lines()] == [("a", "abc"), ("b", "abc")]


def test_what_is_done_is_kept_and_what_failed_is_tried_again(workshop: Workshop) -> None:
    a = workshop.job("a")
    with pytest.raises(RuntimeError, match="out of paper"):
        workshop.run(a, workshop.job("b", a, fails=True))
    workshop.run(a, workshop.job("b", a))
    assert workshop.done == ["a", "b"]


def test_a_job_of_another_process_is_left_to_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = workshop.job("a b"), workshop.job("c")
    (workshop.folder / "locks").mkdir()
    other = FileLock(workshop.folder / "locks" / "a-b.lock")
    other.acquire()

    def finished_meanwhile(seconds: float) -> None:
        assert workshop.done == ["c"]
        a.done.write_text("by the other")
        other.release()

    monkeypatch.setattr(engine.time, "sleep", finished_meanwhile)
    assert "waiting" in workshop.run(a, b)
    assert workshop.done == ["c"]


def test_a_need_that_no_job_makes(workshop: Workshop) -> None:
    with pytest.raises(Error, match="b: needs what no job makes"):
        workshop.run(workshop.job("b", workshop.job("a")))


def test_estimates_are_measured_or_guessed(workshop: Workshop) -> None:
    log = Log(workshop.folder)
    one, other, unknown = workshop.job("1", kind="k"), workshop.job("2", kind="k"), workshop.job("3")
    assert Estimate(log).seconds([one, other, unknown]) == 300
    log.add(one, 4.0, {})
    log.add(other, 8.0, {})
    with log.path.open("a") as file:
        file.write('{"job": "cut off')
    assert Estimate(log).seconds([one, other, unknown]) == 6 + 6 + 100
    assert log.seconds == 12
