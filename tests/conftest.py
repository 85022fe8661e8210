import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from matplotlib.figure import Figure

# The shapes in the models' annotations hold wherever a test calls them.
install_import_hook("counterpoint.models", "beartype.beartype")

# What a busy machine takes long for is no fault.
settings.register_profile("counterpoint", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("counterpoint")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real records, beside the repository or at COUNTERPOINT_DATA."""
    folder = Path(os.environ.get("COUNTERPOINT_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; COUNTERPOINT_DATA tells where it is")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes of shards in read-only folders go here, not into the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["COUNTERPOINT_CACHE"] = str(folder)
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a test saves, coarsely, which is quicker."""
    figures: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **{**options, "dpi": 20})

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures
