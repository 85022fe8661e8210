"""What is fuzzed: a way to draw inputs, and a check that tells what may happen with one."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

INTEGERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        draw: an input, which depends on the random numbers alone.
        check: True if the input was taken, False if it was refused as it should be; raises AssertionError for a wrong
            answer, and lets every exception through that users are not promised.
        quick: how many inputs the ordinary tests draw.
        seconds: an input that takes longer counts as a hang.
    """

    name: str
    draw: Callable[[Random], bytes]
    check: Callable[[bytes], bool]
    quick: int = 150
    seconds: float = 10.0

    def input(self, seed: int, number: int) -> bytes:
        """Input ``number`` of a seed, which no other input has any part in."""
        return self.draw(Random(f"{seed} {self.name} {number}"))


@cache
def scratch() -> Path:
    """This process's folder for inputs, in memory where there is such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="counterpoint-fuzz-", dir=memory if memory.is_dir() else None))


def clear() -> None:
    """Remove the folder."""
    shutil.rmtree(scratch(), ignore_errors=True)
    scratch.cache_clear()


def mutated(random: Random, data: bytes, tokens: Sequence[bytes] = (b"\x00", b"\xff")) -> bytes:
    """The bytes with a few changes of the kinds that disks, networks, editors and programs make."""
    new = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randint(0, len(new))
        size = min(random.choice((1, 1, 2, 4, 8, 16, 64)), len(new) - at)
        match random.randrange(10):
            case 0 if at < len(new):
                new[at] ^= 1 << random.randrange(8)
            case 1 if at < len(new):
                new[at] = random.randrange(256)
            case 2:
                new[at:at] = random.randbytes(random.choice((1, 1, 2, 5, 20)))
            case 3:
                new[at:at] = random.choice(tokens)
            case 4:
                new[at : at + size] = random.choice(tokens)
            case 5:
                del new[at : at + size]
            case 6:
                del new[at:]
            case 7:  # a part twice, here or elsewhere
                part = new[at : at + size]
                to = random.choice((at, random.randint(0, len(new))))
                new[to:to] = part
            case 8:
                new[at : at + size] = bytes(size)
            case _:
                width = random.choice((1, 2, 4, 8))
                value = (random.choice(INTEGERS) + random.randint(-2, 2)) % 256**width
                new[at : at + width] = value.to_bytes(width, random.choice(("little", "big")))
    return bytes(new)
