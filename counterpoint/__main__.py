"""The command `counterpoint`, also as `python -m counterpoint`: Ctrl-C is one line at any moment, also while importing.

The first SIGINT or SIGTERM ends the command in order, with code 130 or 143; a second one ends it at once.
"""

import os
import signal
import sys
from types import FrameType

_received: list[int] = []


def start() -> int:
    """Run the command line of this process; returns its exit code."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stop)
    try:
        from counterpoint.cli.main import main

        code = main()
    except KeyboardInterrupt:  # before the command line could handle it
        print("counterpoint: interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    return 128 + _received[0] if _received and code == 128 + signal.SIGINT else code


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        os._exit(128 + number)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(start())
