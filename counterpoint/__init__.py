"""Counterpoint: categorize videos from picture and sound together.

Example::

    import counterpoint as cp

    run = cp.load("youtube8m")
    for answer in run.categorize(["clips.tfrecord"]):
        print(answer.id, answer.top(3))

Every name below is imported when it is first used, so that ``import counterpoint`` takes milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.api import RECIPES as RECIPES
    from counterpoint.api import Run as Run
    from counterpoint.api import categorize as categorize
    from counterpoint.api import ensemble as ensemble
    from counterpoint.api import evaluate as evaluate
    from counterpoint.api import explain as explain
    from counterpoint.api import extract as extract
    from counterpoint.api import learn as learn
    from counterpoint.api import load as load
    from counterpoint.api import recommend as recommend
    from counterpoint.api import train as train
    from counterpoint.data.dataset import Dataset as Dataset
    from counterpoint.errors import Error as Error
    from counterpoint.recipes import Recipe as Recipe
    from counterpoint.serve.client import Client as Client
    from counterpoint.taxonomy import Taxonomy as Taxonomy

__version__ = "0.1.0"

_MODULES = {
    **dict.fromkeys(("RECIPES", "Run", "categorize", "ensemble", "evaluate", "explain"), "counterpoint.api"),
    **dict.fromkeys(("extract", "learn", "load", "recommend", "train"), "counterpoint.api"),
    "Client": "counterpoint.serve.client",
    "Dataset": "counterpoint.data.dataset",
    "Error": "counterpoint.errors",
    "Recipe": "counterpoint.recipes",
    "Taxonomy": "counterpoint.taxonomy",
}
__all__ = [*sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'counterpoint' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    # Kept, also over a submodule of the same name: `counterpoint.explanation` is the function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
