"""Categorize films by a run that was trained on films of one's own (docs/own-videos.md), and say why.

Usage: python examples/films.py runs/mine holiday.mp4 ...
"""

import sys

import counterpoint as cp


def main(folder: str, *films: str) -> None:
    run = cp.load(folder)
    for answer in run.categorize(list(films), on_failure=lambda film, reason: print(f"{film}: {reason}")):
        print(answer.id, answer.top(3), *answer.notes)
        explanation = run.explain(answer)
        for pair, seconds in explanation.per_second.items():
            print(f"  {pair} by second: {seconds}")


if __name__ == "__main__":
    main(*sys.argv[1:])
