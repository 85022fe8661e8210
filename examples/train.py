"""Train a recipe on shards and measure it.

Usage: python examples/train.py 'train*.tfrecord' 'test*.tfrecord' runs/x
"""

import sys

from rich.console import Console

import counterpoint as cp


def main(train: str, test: str, out: str) -> None:
    recipe = cp.RECIPES["nv-cm"].with_(max_steps=120)
    run = cp.train(recipe, cp.Dataset(train), out=out, console=Console(stderr=True))
    print(cp.evaluate(run, cp.Dataset(test)).table())


if __name__ == "__main__":
    main(*sys.argv[1:4])
