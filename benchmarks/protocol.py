"""Time and cost of the paper's whole protocol on GPUs of the H100's class: an estimate, from counted operations.

    python benchmarks/protocol.py [--share 0.3] [--storage 5] [--price 3] ...

No GPU was at hand. What is counted or measured: the operations of each model's step (`benchmarks/models.py`), its
parameters, a clip's bytes, and what a clip costs a processor to check, parse and pad (docs/results.md). What is assumed
is an option, with the default in brackets.

Protocol (section 4.2): 4,000,000 clips to train on, 64,000 to validate on after each of at most 10 epochs, 934,000 to
test once; batches of 128; for each of two families (`tm`, `nv`) the fusions `e`, `l`, `cm-g` and `cm-c`, and the tower
of the last two. The paper gives no number of grid points: 12 architectures of late fusion, as in
`counterpoint reproduce`, and 6 of F (there 4) for each family, each trained as long as a final model.

A step takes as long as the slowest of what goes on at once:

computing   operations / (peak x share), then Adam's passes over memory and, on several GPUs, the gradients' exchange
reading     the cores check, parse and pad the clips: 87 microseconds each (docs/results.md, "What a clip costs")
storing     the disks give the clips' bytes
starting    Lightning's loop and the start of each kernel from Python: 5 ms, a tiny model's step on a CPU

Cores and disks are in proportion to a machine's GPUs. On a CPU the share of the peak was 0.52 to 0.60 in mixed
precision (docs/results.md, "Speed of the models"). GPUs get less out of matrices this small: 0.3 is a guess, and the
table says what bounds each training, so whether it matters. Left out, as it goes on at the same time and takes less:
copies from readers to trainer and to the GPU (242 KB a clip, 5 microseconds at 50 GB/s).
"""

import argparse
from dataclasses import dataclass

from models import CATEGORIES, SIZES, build, operations
from rich.console import Console
from rich.table import Table

from counterpoint.recipes import TOWER_RECIPES

TRAIN, VALIDATION, TEST = 4_000_000, 64_000, 934_000
EPOCHS, BATCH = 10, 128
CLIP = 242_000  # bytes, on average
READ = 87e-6  # seconds of a core: first touch of a map, checksums, parsing, padding
ADAM = 28  # bytes read and written for a parameter: weight, gradient and two moments, in float32
SEARCH = {"l": 12, "cm": 6}
FAMILIES = {"tm": ("tm-l", "tm-cm"), "nv": ("nv-l", "nv-cm")}


@dataclass(frozen=True)
class Kind:
    """Trainings of about the same cost: ``finals`` in the tables, ``trials`` in the search."""

    name: str
    like: str
    finals: int
    trials: int


KINDS = tuple(
    kind
    for family, (late, cross) in FAMILIES.items()
    for kind in (
        Kind(f"{family}-e, {family}-l", late, 2, SEARCH["l"]),
        Kind(f"{family}-cm-g, {family}-cm-c", cross, 2, SEARCH["cm"]),
        Kind(f"correlation-{family}", late, 1, 0),
    )
)


@dataclass(frozen=True)
class Cost:
    """Of one training."""

    seconds: float
    bound: str


def training(work: float, parameters: int, args: argparse.Namespace, gpus: int) -> Cost:
    """A training on so many GPUs of a machine."""
    speed = args.peak * 1e12 * args.share
    exchange = 2 * 4 * parameters * (gpus - 1) / gpus / (args.link * 1e9)
    starting = args.starting / 1000 / BATCH
    step = BATCH / gpus * work / speed + ADAM * parameters / (args.memory * 1e12) + exchange
    # Both by the clip; evaluation is the forward third of a step, and has no optimizer.
    rates = {
        "computing": (step / BATCH, work / 3 / speed / gpus),
        "starting": (starting, starting / gpus),
        "reading": (READ / (args.cores * gpus),) * 2,
        "storing": (CLIP / (args.storage * 1e9 * gpus),) * 2,
    }
    learnt, judged = EPOCHS * TRAIN, EPOCHS * VALIDATION + TEST
    bound = max(rates, key=lambda name: rates[name][0])
    return Cost(learnt * rates[bound][0] + judged * max(rate for _, rate in rates.values()), bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, told in (
        ("peak", 989.0, "TFLOP/s of a GPU in bfloat16, without sparsity"),
        ("share", 0.3, "of the peak that a training gets"),
        ("memory", 3.35, "TB/s of a GPU's memory"),
        ("link", 300.0, "GB/s between the GPUs of a machine that an exchange gets"),
        ("storage", 5.0, "GB/s that the disks beside each GPU give"),
        ("cores", 16.0, "cores beside each GPU"),
        ("starting", 5.0, "ms a step that Python takes"),
        ("price", 3.0, "dollars for a GPU and an hour"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{told} [{default:g}]")
    args = parser.parse_args()
    # Name, GPUs of the machine, GPUs of a training.
    ways = (("1 GPU", 1, 1), ("8 GPUs, a training each", 8, 1), ("8 GPUs on each training", 8, 8))
    table = Table("trainings like", "final / search", "GFLOP a clip", "million parameters")
    for name, *_ in ways:
        table.add_column(f"hours, {name} (bound by)")
    totals = [[0.0, 0.0] for _ in ways]
    for kind in KINDS:
        work = operations(kind.like)
        parameters = sum(parameter.numel() for parameter in build(kind.like).parameters())
        if kind.name.startswith("correlation"):
            tower = TOWER_RECIPES[kind.name].build(SIZES, CATEGORIES, components=True)
            parameters = sum(parameter.numel() for parameter in tower.parameters())
        row = [kind.name, f"{kind.finals} / {kind.trials}", f"{work / 1e9:.2f}", f"{parameters / 1e6:.0f}"]
        for total, (_, gpus, each) in zip(totals, ways, strict=True):
            cost = training(work, parameters, args, each)
            hours = cost.seconds / 3600
            for i, count in enumerate((kind.finals, kind.trials)):
                total[i] += count * hours * each / gpus
            row.append(f"{hours:.2f} ({cost.bound})")
        table.add_row(*row)
    for what, parts in (("final models", (0,)), ("with the search", (0, 1))):
        row = [f"all, {what}", "", "", ""]
        for total, (_, gpus, _) in zip(totals, ways, strict=True):
            hours = sum(total[i] for i in parts)
            row.append(f"{hours:.1f} h, ${hours * gpus * args.price:,.0f}")
        table.add_row(*row)
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
