"""A few seconds of the search (`make fuzz` is the whole), and every case that it has found."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.engine import TARGETS
from fuzz.target import clear

CASES = sorted((Path(__file__).parent / "cases").glob("*.bin"))


@pytest.fixture(scope="module", autouse=True)
def _folder() -> Iterator[None]:
    yield
    clear()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_harm(name: str) -> None:
    target = TARGETS[name]
    taken = 0
    for number in range(target.quick):
        try:
            taken += target.check(target.input(0, number))
        except Exception as error:
            raise AssertionError(f"{name}: input {number} of seed 0") from error
    assert 0 < taken < target.quick  # else the inputs are all of one kind


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_was_found(path: Path) -> None:
    """A case is called by its target and what was wrong with it: `payload-cut-varint.bin`."""
    target = max((name for name in TARGETS if path.name.startswith(f"{name}-")), key=len)
    TARGETS[target].check(path.read_bytes())
