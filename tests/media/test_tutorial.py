"""The tutorial runs as it stands."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import counterpoint as cp

TUTORIAL = Path(__file__).parents[2] / "docs" / "own-videos.md"
SERVE = "counterpoint serve"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_tutorial(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = "\n".join(block for block in blocks("sh") if not block.startswith(SERVE))
    ran = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "why" / "rain-wind-8.mp4.png").stat().st_size > 10_000
    assert "Confusion matrix" in (tmp_path / "runs" / "films" / "report.html").read_text()
    assert blocks("")[0] in ran.stdout.replace("\r", "")
    with (tmp_path / "videos" / "labels.csv").open(newline="") as file:
        labels = {row["path"]: row["categories"] for row in csv.DictReader(file)}
    answers = cp.load(tmp_path / "runs" / "films").categorize(tmp_path / "videos" / "test")
    assert len(answers) == 18
    deepest = {f"test/{a.id}": max((each.path for each in a.predicted), key=len, default="") for a in answers}
    assert sum(labels[name] == path for name, path in deepest.items()) >= 15
    (python,) = blocks("python")
    ran = subprocess.run(
        [sys.executable, "-c", python], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("rain-wind-8.mp4 [Category(path='Rain'")
    _serves(next(block for block in blocks("sh") if block.startswith(SERVE)), tmp_path, environment)


def _serves(command: str, folder: Path, environment: dict[str, str]) -> None:
    port = re.findall(r"--port (\d+)", command)[0]
    with subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=folder, env=environment) as server:
        try:
            for _ in range(600):
                try:
                    with urllib.request.urlopen(f"http://localhost:{port}/healthz") as answer:
                        assert answer.status == 200
                        break
                except OSError:
                    assert server.poll() is None
                    time.sleep(0.1)
            else:
                pytest.fail("the server did not answer")
        finally:
            server.send_signal(signal.SIGTERM)
