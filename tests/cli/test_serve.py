import socket
from pathlib import Path

import pytest

from counterpoint.cli.main import main
from counterpoint.errors import Error
from counterpoint.run import RunFolder
from counterpoint.serve.gate import bind


def test_one_line_why_it_does_not_start(
    record_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(record_run.folder)
    (tmp_path / "empty").write_text("\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            ([str(tmp_path)], f"{tmp_path}: not a run folder"),
            ([f"{run}/tower"], "a correlation tower, which names no categories"),
            ([run, "--port", str(port)], f"127.0.0.1:{port}: Address already in use; --host and --port"),
            ([run, "--host", "no.such.host.example"], "no.such.host.example:0: "),
            ([run, "--hosts", "films.example.org:8443"], "films.example.org:8443: a name without a port"),
            ([run, "--key-file", str(tmp_path / "empty")], "empty: no key in it"),
            ([run, "--examples", str(tmp_path / "nothing")], "nothing: no folder of examples"),
        ):
            port_option = [] if "--port" in arguments else ["--port", "0"]
            assert main(["serve", *arguments, *port_option]) == 1
            line = capsys.readouterr().err
            assert line.startswith("counterpoint: ")
            assert message in line
            assert line.count("\n") == 1


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_ports_there_are_none_of(port: int) -> None:
    with pytest.raises(Error, match="ports go from 0 to 65535"):
        bind("127.0.0.1", port)
