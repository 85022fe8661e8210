"""Ctrl-C and SIGTERM, whenever they come: each test is a process of its own."""

import signal
import subprocess
import sys

import pytest

# The signal comes while the command line is imported.
IMPORTING = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "counterpoint.cli.main":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
from counterpoint.__main__ import start
sys.exit(start())
"""
# It comes a second time while the command ends in order.
TWICE = """
import os, sys, time
from counterpoint.cli import main
def endless():
    try:
        os.kill(os.getpid(), {number})
    finally:
        os.kill(os.getpid(), {number})
        time.sleep(60)
main.main = endless
from counterpoint.__main__ import start
sys.exit(start())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("script", "printed"), [(IMPORTING, "counterpoint: interrupted\n"), (TWICE, "")])
def test_a_signal_ends_the_command_in_one_line(script: str, printed: str, number: int, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script.format(number=int(number))],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", printed)
