"""What reading a remote shard costs: requests, bytes and time, against the same shard here.

    python benchmarks/remote.py [--records 1000] [--latency 0.02]

Writes a shard of frame-level records (as `benchmarks/reading.py`) and serves it over HTTP by range from another
process of this machine, which waits `--latency` seconds before each answer, as a store in the same region does. Records
are read in a random order in batches of 128, as in training. Times are of one pass each, processor time is this
process's; the network is the machine's own.
"""

import argparse
import http.server
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from ctypes import c_long
from pathlib import Path
from typing import Any

import numpy as np
from reading import BATCH, write
from rich.console import Console
from rich.table import Table

from counterpoint.data.records import clip_of
from counterpoint.data.remote import RemoteShard, fetch
from counterpoint.data.tfrecord import Shard, write_index


def serve(folder: Path, latency: float, port: Any, requests: Any, sent: Any) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(latency)
            path = folder / self.path.lstrip("/")
            with requests.get_lock():
                requests.value += 1
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            first, _, last = self.headers.get("Range", f"bytes=0-{size - 1}").removeprefix("bytes=").partition("-")
            start, count = int(first), int(last) + 1 - int(first)
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(count))
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            self.end_headers()
            if self.command == "GET":
                with path.open("rb") as file:
                    os.sendfile(self.connection.fileno(), file.fileno(), start, count)
                with sent.get_lock():
                    sent.value += count

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port.value = server.server_address[1]
        server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.02)
    args = parser.parse_args()
    port, requests, sent = (multiprocessing.Value(c_long, 0) for _ in range(3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "shard", args.records)
        server = multiprocessing.Process(target=serve, args=(folder, args.latency, port, requests, sent), daemon=True)
        server.start()
        while not port.value:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port.value}/shard"
        title = f"{args.records:,} records, {args.latency * 1000:g} ms an answer"
        table = Table("", "requests", "MB", "s", "processor s", title=title)

        def measure(what: str, cache: str, act: Callable[[], Any]) -> Any:
            os.environ["COUNTERPOINT_CACHE"] = str(folder / cache)
            before = (requests.value, sent.value)
            begun, worked = time.perf_counter(), time.process_time()
            result = act()
            seconds, worked = time.perf_counter() - begun, time.process_time() - worked
            asked, moved = requests.value - before[0], sent.value - before[1]
            table.add_row(what, f"{asked:,}", f"{moved / 1e6:,.1f}", f"{seconds:.2f}", f"{worked:.2f}")
            return result

        def epoch(shard: Shard) -> None:
            order = np.random.default_rng(0).permutation(len(shard)).tolist()
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                fetch([shard], [(0, record) for record in batch])
                for record in batch:
                    clip_of(shard, record)

        shard = measure("index from the shard itself", "a", lambda: RemoteShard(url))
        measure("  then an epoch", "a", lambda: epoch(shard))
        measure("  opened again", "a", lambda: RemoteShard(url))
        os.environ["COUNTERPOINT_CACHE_GB"] = "0"
        measure("  an epoch without a cache", "a", lambda: epoch(shard))
        os.environ["COUNTERPOINT_CACHE_GB"] = "20"
        local = measure("local: index, payloads checked too", "b", lambda: Shard(folder / "shard"))
        write_index(folder / "shard")
        measure("local: an epoch", "b", lambda: epoch(local))
        shard = measure("index from beside the shard", "c", lambda: RemoteShard(url))
        measure("  then an epoch", "c", lambda: epoch(shard))
        measure("  and another", "c", lambda: epoch(shard))
        server.terminate()
    Console().print(table)


if __name__ == "__main__":
    main()
