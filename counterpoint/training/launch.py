"""Several processes for one command, by torchrun: which of them this one is, and starting them on this machine.

Nothing here needs PyTorch until processes are started, so that commands which do without it stay quick.
"""

import os
import signal
import sys
from collections.abc import Sequence

from counterpoint.errors import Error


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leading() -> bool:
    """Whether this is the only process, or the first of several: the one that speaks and writes."""
    return not launched() or os.environ["RANK"] == "0"


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `counterpoint` with these arguments in so many processes of this machine; returns its exit code.

    The same as `torchrun --standalone --nproc-per-node PROCESSES -m counterpoint.cli.main ARGUMENTS`, without torchrun's own
    report of a failure: the processes have said what is wrong. Where one dies, the others are ended.

    Raises:
        Error: the system ended a process.
    """
    import logging
    import uuid

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "counterpoint.cli.main", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it could not say so itself
            told = signal.strsignal(-failure.exitcode) or f"signal {-failure.exitcode}"
            raise Error(
                f"process {rank} of {processes} was ended ({told}); if memory was short, take fewer --devices"
            ) from error
        return failure.exitcode or 1
    except SignalException as stopped:
        if stopped.sigval == signal.SIGINT:
            raise KeyboardInterrupt from stopped
        return 128 + stopped.sigval
    return 0
