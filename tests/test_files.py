import errno
import os
from pathlib import Path

import numpy as np
import pytest

from counterpoint.errors import Error
from counterpoint.files import LOCK_FILE, appending, claimed, holds_anything, replacing


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", "text"])  # type: ignore[list-item]
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as file:
        file.write(b"after")
    assert path.read_text() == "after"


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as writing does: without a name
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as missing, replacing(tmp_path / "a"):
        (tmp_path / "b").read_text()
    assert missing.value.filename == str(tmp_path / "b")  # another file's trouble is its own


def test_rows_as_they_come(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
    with appending(tmp_path / "rows.npy", (4, 3)) as add:
        add(rows[:1])
        add(rows[1:])
    assert np.array_equal(np.load(tmp_path / "rows.npy", mmap_mode="r"), rows.astype(np.float16))
    with pytest.raises(ValueError, match="3 rows, not 4"), appending(tmp_path / "few.npy", (4, 3)) as add:
        add(rows[:3])
    assert not (tmp_path / "few.npy").exists()


def test_a_claimed_folder_is_let_go_without_a_trace(tmp_path: Path) -> None:
    with claimed(tmp_path, "busy"):
        assert (tmp_path / LOCK_FILE).exists()
        with pytest.raises(Error, match="busy"), claimed(tmp_path, "busy"):
            pass
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_leave_is_nothing(tmp_path: Path) -> None:
    assert not holds_anything(tmp_path / "not there")
    (tmp_path / ".lock").touch()
    assert not holds_anything(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert holds_anything(tmp_path)
