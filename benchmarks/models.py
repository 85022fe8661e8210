"""How long training steps take and how much memory they need: cross-modal against late fusion.

    python benchmarks/models.py [--small] [--threads 1] [--repeats 7] [--only steps memory loop padding]
                                [--families nv rnn tm]

Clips have 300 steps of 1024 + 128 features, 8-bit codes, and there are 640 categories. NetVLAD: 128 and 64 clusters,
descriptors mapped to 1024 features (146 million parameters), 128 clips a batch. Attention clusters: 16 units, no
recurrent network, 32 clips. Transformer: one layer, widths 512 and 128, 8 heads, 32 clips. F is the recipe's; "dense"
is one map of all pairs of steps and "deep" has a hidden layer of 128 besides. A step is forward, loss and backward. The
optimizer (fused Adam) costs every fusion about the same and is timed by itself.

Times are processor seconds of all threads, and variants take turns within one process, so that what else runs on the
machine counts as little as it can. Ratios are of the fastest steps and, in brackets, of the medians. The peak is the
fastest matrix product of 2048 by 2048, tried between the turns. Operations are those of the matrix products that a step
has to do, without what the backward pass forms again. Memory is that of the model and of all tensors alive at a step's
highest point; "resident" is the growth of the process at its highest point since before the model was made, with glibc
set to keep freed memory as in training; it depends on how the pieces happen to fit.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from counterpoint.data.loading import EpochSampler
from counterpoint.data.tracks import Track, Tracks, masked_softmax
from counterpoint.models.attention_cluster import AttentionCluster
from counterpoint.models.correlation import Tower
from counterpoint.models.fusion import Correlation, CrossModal, Influences
from counterpoint.recipes import (
    RECIPES,
    TOWER_RECIPES,
    AttentionClusterFamily,
    NetVLADFamily,
    Recipe,
    TransformerFamily,
)
from counterpoint.training.train import keep_freed_memory

SIZES = {"video": 1024, "audio": 128}
CATEGORIES = 640
STEPS = 300
HIDDEN = 128
CLIPS = {"nv": 128, "rnn": 32, "tm": 32}
VARIANTS = {
    "nv": ("nv-l", "nv-cm", "nv-cm-c"),
    "rnn": ("rnn-l", "rnn-cm", "rnn-cm dense", "rnn-cm-c dense"),
    "tm": ("tm-l", "tm-cm", "tm-cm dense", "tm-cm-c dense", "tm-cm deep"),
}
PRECISIONS = {
    "float32": (torch.float32, False),
    "bfloat16, mixed": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
}

Works = dict[str, Callable[[], object]]


def recipe(name: str) -> Recipe:
    """A recipe by name; along time, F is that of the recipe, one dense map, or deep."""
    base, _, form = name.partition(" ")
    chosen = RECIPES[base]
    if isinstance(chosen.family, NetVLADFamily):
        chosen = replace(chosen, family=replace(chosen.family, hidden=1024))
    if isinstance(chosen.family, AttentionClusterFamily):
        chosen = replace(chosen, family=replace(chosen.family, recurrence="none"))
    if form:
        assert isinstance(chosen.fusion, CrossModal)
        hidden = (HIDDEN,) if form == "deep" else ()
        chosen = replace(chosen, fusion=replace(chosen.fusion, hidden=hidden, reach=None))
    return chosen


class Certain(Tower):
    """A tower that costs nothing, so that the cost of influence alone is measured."""

    def forward(self, tracks: Tracks, per_second: bool = False) -> Correlation:
        return Correlation({("audio", "video"): torch.full((len(tracks["video"].mask),), 0.9).to(self.bias)}, {})


def build(name: str) -> nn.Module:
    chosen, tower = recipe(name), None
    if chosen.needs_tower:
        least = NetVLADFamily(clusters=dict.fromkeys(SIZES, 1), hidden=1)
        tower = replace(TOWER_RECIPES["correlation-nv"], family=least).build(SIZES)
        tower = Certain(tower.trunk, tower.comparison)
    return chosen.build(SIZES, CATEGORIES, tower)


def batch(lengths: Sequence[int], steps: int) -> tuple[Tracks, Tensor]:
    """Clips of such lengths, padded to ``steps``, and labels."""
    there = torch.arange(steps) < torch.tensor(lengths).unsqueeze(1)
    tracks = {
        name: Track(torch.randint(0, 256, (*there.shape, size), dtype=torch.uint8), there)
        for name, size in SIZES.items()
    }
    return tracks, (torch.rand(len(lengths), CATEGORIES) < 3 / CATEGORIES).float()


def step(model: nn.Module, tracks: Tracks, labels: Tensor, mixed: bool = False) -> None:
    """Forward, loss and backward, into gradients that are not there yet."""
    with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
        logits = model(tracks).logits
    functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
    for parameter in model.parameters():
        parameter.grad = None


# --- measures ---------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def take_turns(works: Works, repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each, ``repeats`` times after one to warm up."""
    taken = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats + 1)][1:]
    return {name: [turn[name] for turn in taken] for name in works}


def ratio(one: list[float], other: list[float]) -> str:
    return f"{min(one) / min(other):.2f} ({statistics.median(one) / statistics.median(other):.2f})"


def product(dtype: torch.dtype, size: int = 2048) -> tuple[Callable[[], object], float]:
    """A matrix product, and its operations."""
    one, other = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return (lambda: one @ other), 2.0 * size**3


def operations(name: str) -> float:
    """Of the matrix products of one clip's step."""
    chosen = recipe(name)
    fusion, family = chosen.fusion, chosen.family
    formula = isinstance(fusion, CrossModal) and isinstance(family, TransformerFamily)
    model = build("tm-l" if formula else name)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step(model, *batch([STEPS], STEPS))
    total = float(counter.get_total_flops())
    if isinstance(fusion, CrossModal) and isinstance(family, TransformerFamily):
        # Written out in `counterpoint.models.influenced_attention`: the counter would count twice what is formed twice.
        first = fusion.hidden[0] if fusion.hidden else STEPS
        for source in SIZES:
            forward = 2 * first * STEPS * family.widths[source]  # W^T K, and Q times that
            forward += STEPS * first * STEPS * family.heads if fusion.hidden else 0
            total += 3 * 2 * forward  # and backward twice as much
    return total


def resident(highest: bool = False) -> int:
    """Bytes of this process in memory, now or at the most (Linux)."""
    key = "VmHWM:" if highest else "VmRSS:"
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(found.split()[1]) * 1024


# --- tables -----------------------------------------------------------------------------------------------------------


def steps(console: Console, args: argparse.Namespace) -> None:
    for family in args.families:
        names = VARIANTS[family]
        clips = max(1, CLIPS[family] // args.divide)
        tracks, labels = batch([STEPS] * clips, STEPS)
        counts = {name: operations(name) * clips for name in names}
        for precision, (dtype, mixed) in PRECISIONS.items():
            if args.small and precision != "float32" and family != "tm":
                continue
            works: Works = {}
            for name in names:
                works[name] = partial(step, build(name).to(dtype), tracks, labels, mixed)
            fast = torch.bfloat16 if precision != "float32" else torch.float32
            multiply, count = product(fast)
            taken = take_turns({**works, "peak": multiply}, args.repeats)
            most = count / min(taken["peak"])
            table = Table(
                "", "ms a step", "to late", "operations to late", "share of peak",
                title=f"{family}, {clips} clips, {precision}; peak {most / 1e9:.0f} GFLOP/s",
            )  # fmt: skip
            late = names[0]
            for name in names:
                table.add_row(
                    name,
                    f"{1000 * min(taken[name]):.0f}",
                    ratio(taken[name], taken[late]),
                    f"{counts[name] / counts[late]:.2f}",
                    f"{counts[name] / min(taken[name]) / most:.0%}",
                )
            console.print(table)
        model = build(late)
        count = sum(parameter.numel() for parameter in model.parameters())
        console.print(f"{late}: {count:,} parameters; fused Adam {1000 * optimizer(model):.0f} ms\n")


def optimizer(model: nn.Module) -> float:
    """Processor seconds of a step of Adam."""
    adam = torch.optim.Adam(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return min(seconds(adam.step) for _ in range(4))


def memory(console: Console, args: argparse.Namespace) -> None:
    table = Table("", "MiB", "to late", "resident MiB", "to late", title="memory of a step, float32")
    for family in args.families:
        names = VARIANTS[family]
        clips = max(1, CLIPS[family] // args.divide)
        late: list[int] = []
        for name in names:
            command = [sys.executable, __file__, "--grow", name, str(clips), "--threads", str(args.threads)]
            grown = [int(word) for word in subprocess.check_output(command, text=True).split()[-2:]]
            late = late or grown
            columns = ((f"{now / 2**20:.0f}", f"{now / then:.2f}") for now, then in zip(grown, late, strict=True))
            table.add_row(name, *(text for column in columns for text in column))
    console.print(table)


def grow(name: str, clips: int) -> tuple[int, int]:
    """Bytes of model and step at the highest point: of tensors, and of the process."""
    small, labels = batch([2], 2)
    step(build("rnn-l"), small, labels)  # libraries have what they keep for themselves
    before = resident()
    tracks, labels = batch([STEPS] * clips, STEPS)
    model = build(name)
    for _ in range(3):
        step(model, tracks, labels)
    grown = resident(highest=True) - before
    with torch.profiler.profile(profile_memory=True) as profiler:
        step(model, tracks, labels)
    events = profiler.profiler.kineto_results.events()
    changes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return int(np.cumsum(changes).max()) + sum(4 * parameter.numel() for parameter in model.parameters()), grown


def loop(console: Console, args: argparse.Namespace) -> None:
    """Attention clusters against the same, one unit after the other."""
    clips = max(1, CLIPS["rnn"] // args.divide)
    layer = AttentionCluster(512, 16, 512, STEPS)
    hide, last = layer.attend[:2], layer.attend[2]
    assert isinstance(hide, nn.Sequential)
    assert isinstance(last, nn.Linear)
    track = Track(torch.randn(clips, STEPS, 512), torch.ones(clips, STEPS, dtype=torch.bool))

    def together() -> None:
        layer.aggregate(track, layer.weights(track), Influences([])).features.sum().backward()

    def one_by_one(shared: bool) -> None:
        hidden, parts = hide(track.features), []
        for unit in last.weight:
            weights = masked_softmax((hidden if shared else hide(track.features)) @ unit, track.mask)
            parts.append((weights.unsqueeze(-1) * track.features).sum(1))
        layer.describe(torch.stack(parts, 1)).sum().backward()

    works: Works = {
        "together": together,
        "a loop": partial(one_by_one, False),
        "a loop, hidden layer shared": partial(one_by_one, True),
    }
    taken = take_turns(works, args.repeats)
    table = Table("16 attention units", "ms", "to together", title=f"{clips} clips, width 512, float32")
    for name in works:
        table.add_row(name, f"{1000 * min(taken[name]):.0f}", ratio(taken[name], taken["together"]))
    console.print(table)


def padding(console: Console, args: argparse.Namespace) -> None:
    """Lengths uniform in 120 to 300 with 15 % at 300: all padded to 300, batches cut to their longest, and grouped."""
    random = np.random.default_rng(0)
    clips = max(1, CLIPS["tm"] // args.divide)
    lengths = np.where(random.random(64 * clips) < 0.15, 300, random.integers(120, 301, 64 * clips))
    table = Table("", "steps a clip", "ms a clip", "faster", title=f"skipping padding, batches of {clips} clips")
    some = 16 if args.small else 4
    kinds: dict[str, list[tuple[list[int], int]]] = {}
    for kind in ("padded to 300", "cut to the longest", "grouped by length"):
        grouped = kind == "grouped by length"
        order = list(EpochSampler(lengths, clips, 0)) if grouped else random.permutation(len(lengths)).tolist()
        batches = [
            (part, STEPS if kind == "padded to 300" else max(part)) for part in _cut(lengths[order].tolist(), clips)
        ]
        kinds[kind] = sorted(batches, key=lambda made: sum(made[0]))[some // 2 :: some]  # as long as all, on average
    for name in ("tm-l", "tm-cm"):
        model = build(name)
        step(model, *batch([STEPS] * clips, STEPS))
        taken: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in zip(*kinds.values(), strict=True):
            for kind, made in zip(kinds, turn, strict=True):
                taken[kind].append(seconds(partial(step, model, *batch(*made))))
        for kind, batches in kinds.items():
            table.add_row(
                f"{name}, {kind}",
                f"{np.mean([top for _, top in batches]):.0f}",
                f"{1000 * np.mean(taken[kind]) / clips:.1f}",
                f"{np.sum(taken['padded to 300']) / np.sum(taken[kind]):.2f}",
            )
    console.print(table)


def _cut(order: list[int], size: int) -> Iterator[list[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = {"steps": steps, "memory": memory, "loop": loop, "padding": padding}
    parser.add_argument("--small", action="store_true", help="an eighth of the clips, a minute or two")
    parser.add_argument("--threads", type=int, default=1, help="several are only fair on an idle machine (default: 1)")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--only", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--families", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of steps and memory")
    parser.add_argument("--grow", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.divide = 8 if args.small else 1
    args.repeats = args.repeats or (3 if args.small else 7)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    if args.grow:
        print(*grow(args.grow[0], int(args.grow[1])))
        return
    console = Console()
    for name in args.only:
        tables[name](console, args)


if __name__ == "__main__":
    main()
