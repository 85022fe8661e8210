"""Several processes for one command: starting them on this machine by torchrun, and what they exchange.

PyTorch is imported when processes are started or meet, so that commands which do without it stay quick.
"""

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from counterpoint.errors import Error

PATIENCE = timedelta(days=7)  # for the first process, which may have to index a whole data set

_control: Any = None
"""The process group of all messages but gradients: on CPUs, so that no GPU has to wait for one."""


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leading() -> bool:
    """Whether this is the only process, or the first of several: the one that prints and writes."""
    return not launched() or os.environ["RANK"] == "0"


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `counterpoint` with these arguments in several processes of this machine; returns the exit code.

    The same as ``torchrun --standalone --nproc-per-node PROCESSES -m counterpoint.cli.main ARGUMENTS``, without
    torchrun's own report of a failure: the processes have printed theirs. Where one dies, the others are ended.

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
        if failure.exitcode < 0:  # a killed process prints nothing
            cause = signal.strsignal(-failure.exitcode) or f"signal {-failure.exitcode}"
            raise Error(
                f"process {rank} of {processes} was ended ({cause}); if memory was short, take fewer --devices"
            ) from error
        return failure.exitcode or 1
    except SignalException as stopped:
        if stopped.sigval == signal.SIGINT:
            raise KeyboardInterrupt from stopped
        return 128 + stopped.sigval
    return 0


def join() -> None:
    """Meet the other processes that torchrun started, if it did."""
    global _control
    import torch
    import torch.distributed as dist

    if not launched() or dist.is_initialized():
        return
    device = None
    if torch.cuda.is_available():
        device = torch.device("cuda", dist.get_node_local_rank(0))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device else "gloo", device_id=device)
    _control = dist.new_group(backend="gloo", timeout=PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number among those that joined; 0 where it is the only one."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes joined."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """The first process runs the block, then the others do; where it fails, they end and print nothing."""
    if world_size() == 1:
        yield
    elif rank() == 0:
        failed = True
        try:
            yield
            failed = False
        finally:
            broadcast(failed)
    else:
        if broadcast(True):
            raise SystemExit(1)
        yield


def broadcast(value: Any) -> Any:
    """The first process's value, in every process."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0, group=_control)
    return values[0]


def gather(value: Any) -> list[Any]:
    """In the first process, every process's value in the order of ranks; an empty list in the others."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.gather_object(value, values if rank() == 0 else None, dst=0, group=_control)
    return values if rank() == 0 else []


def total(*values: float) -> list[float]:
    """The sum of each value over all processes, in float64."""
    return _reduced(values, "SUM")


def maximum(*values: float) -> list[float]:
    """The maximum of each value over all processes."""
    return _reduced(values, "MAX")


def _reduced(values: tuple[float, ...], operation: str) -> list[float]:
    if world_size() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers, getattr(dist.ReduceOp, operation), group=_control)
    return numbers.tolist()
