"""The tutorial runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "own-videos.md"


@pytest.mark.slow
def test_tutorial(tmp_path: Path) -> None:
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "why" / "rain-wind-7.mp4.png").stat().st_size > 10_000
    (head, *_) = re.findall(r"^```\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    assert head in ran.stdout.replace("\r", "")
    answers = re.findall(r"│ (\w+-\w+)-\d\.mp4 .*\n.*│ (\w+:\w+)", ran.stdout)
    assert len(answers) == 18
    assert sum(name == category.replace(":", "-").lower() for name, category in answers) >= 16
