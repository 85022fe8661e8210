"""The weights of YouTube-8M's encoders: fetched from where they were published, checked, and kept.

A file whose name carries the beginning of its SHA-256 must have it. The SHA-256 of each is recorded when it is first
fetched, in ``sha256.json`` beside it, and must not change afterwards.
"""

import hashlib
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from counterpoint.errors import UNREADABLE, Error
from counterpoint.files import cache_folder, claimed

URLS = {
    "inception": "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    "inception-pca": "http://data.yt8m.org/yt8m_pca.tgz",
    "vggish": "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
    "vggish-pca": "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish_pca_params-970ea276.pth",
}
RECORD = "sha256.json"
CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte

Progress = Callable[[str, int, int], None]


def folder() -> Path:
    """Where the weights are kept: in the user's cache folder."""
    return cache_folder() / "weights"


def files() -> dict[str, Path]:
    """The file of each part.

    Raises:
        Error: some are not here.
    """
    found = {part: folder() / _name(url) for part, url in URLS.items()}
    if missing := [path.name for path in found.values() if not path.exists()]:
        raise Error(
            f"{folder()}: {', '.join(missing)} not there; `counterpoint weights fetch` downloads what is missing, "
            "or takes it from a folder (--from FOLDER)"
        )
    return found


def fetch(source: Path | None = None, progress: Progress = lambda name, done, total: None) -> list[Path]:
    """Bring every file that is not here yet: from its place on the network, or from a folder that holds it.

    A download that broke off continues where it stopped.

    Args:
        source: the folder to copy the files from.
        progress: called with a file's name, the bytes that are here, and all of its bytes.

    Returns:
        The files that are new.

    Raises:
        Error: a file cannot be had, or is not what it should be.
    """
    with claimed(folder(), "another process fetches into it; wait for it"):
        return _fetched(source, progress)


def _fetched(source: Path | None, progress: Progress) -> list[Path]:
    new = []
    for url in URLS.values():
        path = folder() / _name(url)
        if path.exists():
            _check(path, path.name)
            continue
        part = path.with_name(f"{path.name}.part")
        if source is not None:
            if not (source / path.name).is_file():
                raise Error(f"{source}: {path.name} is not there")
            shutil.copyfile(source / path.name, part)
        else:
            _download(url, part, progress)
        try:
            _check(part, path.name)
        except Error:
            part.unlink()
            raise
        part.replace(path)
        new.append(path)
    return new


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _download(url: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            continues = answer.status == 206
            have = have if continues else 0  # a server without ranges starts from the beginning
            total = have + int(answer.headers.get("Content-Length") or 0)
            with part.open("ab" if continues else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    progress(_name(url), have, total)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch
            return
        raise Error(f"{url}: {error.code} {error.reason}; download it by hand and use --from") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Error(f"{url}: {reason}; the same command goes on where it stopped") from error
    if have < total:
        raise Error(f"{url}: broke off after {have:,} of {total:,} bytes; the same command goes on")


def _check(path: Path, name: str) -> None:
    """Raise Error unless the file has the SHA-256 that its name carries or that was recorded; record it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = folder() / RECORD
    try:
        recorded: dict[str, str] = dict(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else {}
    except UNREADABLE as error:
        raise Error(f"{record}: cannot be read ({error}); remove it to record them anew") from error
    carried = re.search(r"-([0-9a-f]{8,})\.\w+$", name)
    expected = recorded.get(name) or (carried[1] if carried else "")
    if not digest.startswith(expected):
        raise Error(f"{name}: its SHA-256 is {digest}, not {expected}...; it is damaged, or another file")
    if recorded.setdefault(name, digest) == digest:
        new = record.with_suffix(".tmp")
        new.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")
        new.replace(record)
