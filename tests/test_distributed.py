import signal
import sys

import pytest

from counterpoint.distributed import launch
from counterpoint.errors import Error


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on this system")
def test_a_process_that_the_system_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where memory is short: the process itself prints nothing."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from torch.distributed.launcher import api

    failure = ProcessFailure(local_rank=1, pid=7, exitcode=-signal.SIGKILL, error_file="")

    def killed(*arguments: object) -> object:
        def run(*more: object) -> None:
            raise ChildFailedError("counterpoint", {1: failure})

        return run

    monkeypatch.setattr(api, "elastic_launch", killed)
    with pytest.raises(Error, match=r"process 1 of 2 was ended \(Killed\); if memory was short"):
        launch(2, ["train"])
