"""Downloads, from a server on this machine; and the command line around data sets."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinydl.cli.data import app
from tinydl.data import DataError, catalog, names
from tinydl.data.fetch import fetch, sha256

pytest.importorskip("pooch")
CONTENT = b"anna\nbob\n" * 50


@pytest.fixture
def server(monkeypatch):
    """Serves CONTENT at /names.txt, something else at /wrong.txt, and 404 elsewhere; counts requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = {"/names.txt": CONTENT, "/wrong.txt": CONTENT[:-1]}.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    asked: list[str] = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        try:
            socket.create_connection(running.server_address).close()
        except OSError as error:
            pytest.skip(f"this machine cannot reach itself: {error}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def serve_names_from(monkeypatch, *urls: str) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = catalog.RemoteFile("names.txt", urls, digest, len(CONTENT))
    entry = catalog.Entry("names", "names", "", "", "tinydl.data.catalog.first_names", (file,))
    monkeypatch.setitem(catalog.CATALOG, "names", entry)


def test_fetch_once(tmp_path, monkeypatch, server):
    home, asked = server
    serve_names_from(monkeypatch, f"{home}/names.txt")
    lines: list[str] = []
    for _ in range(2):
        (path,) = fetch("names", tmp_path / "new", report=lines.append)
        assert path.read_bytes() == CONTENT and sha256(path) == hashlib.sha256(CONTENT).hexdigest()
    assert asked == ["/names.txt"]
    assert lines == [f"downloading {home}/names.txt (0.0 MB)", f"{path}: already there"]


def test_a_mirror_answers_where_the_home_does_not(tmp_path, monkeypatch, server):
    home, asked = server
    serve_names_from(monkeypatch, f"{home}/gone.txt", f"{home}/wrong.txt", f"{home}/names.txt")
    (path,) = fetch("names", tmp_path, report=lambda _: None)
    assert path.read_bytes() == CONTENT and asked == ["/gone.txt", "/wrong.txt", "/names.txt"]


def test_wrong_bytes_are_refused_and_nothing_is_left(tmp_path, monkeypatch, server):
    home, _ = server
    serve_names_from(monkeypatch, f"{home}/wrong.txt")
    with pytest.raises(DataError, match=r"could not download names\.txt:\n.*SHA256 hash") as caught:
        fetch("names", tmp_path, report=lambda _: None)
    assert "By hand: download it where there is a network" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_what_failed_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    serve_names_from(monkeypatch, "http://127.0.0.1:9/names.txt")  # nobody listens there
    with pytest.raises(DataError) as caught:
        fetch("names", tmp_path, report=lambda _: None)
    message = str(caught.value)
    assert "refused" in message or "unreachable" in message
    for part in (
        "http://127.0.0.1:9/names.txt: ",
        f"put it at {tmp_path / 'names.txt'}",
        hashlib.sha256(CONTENT).hexdigest(),
        "TINYDL_DATA",
    ):
        assert part in message


def test_a_file_that_is_not_the_original_is_never_overwritten(tmp_path, monkeypatch, server):
    home, asked = server
    serve_names_from(monkeypatch, f"{home}/names.txt")
    (tmp_path / "names.txt").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"names\.txt is there, but is not the original"):
        fetch("names", tmp_path)
    assert (tmp_path / "names.txt").read_bytes() == b"mine" and asked == []


def test_digits_need_no_download(tmp_path):
    lines: list[str] = []
    assert fetch("digits", tmp_path, report=lines.append) == []
    assert lines == ["digits comes with its package: nothing to download"]


def test_every_file_of_the_catalog_has_a_whole_checksum_and_a_safe_place():
    for entry in catalog.CATALOG.values():
        for file in entry.files:
            assert len(bytes.fromhex(file.sha256)) == 32 and file.size > 0
            assert not Path(file.path).is_absolute() and ".." not in Path(file.path).parts
            assert all(url.startswith("https://") for url in file.urls)


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_command_list(tmp_path):
    (tmp_path / "names.txt").write_bytes(CONTENT)
    result = run("list", "--root", str(tmp_path))
    assert result.exit_code == 0
    here = {line.split()[0]: line.split()[1] for line in result.output.splitlines()[1:-1]}
    assert here == {name: "yes" if name in ("digits", "names") else "no" for name in names()}


def test_command_info(tmp_path):
    result = run("info", "digits")
    assert result.exit_code == 0
    assert "1437 training and 360 test samples of 8 x 8 x 1 (uint8), 10 classes" in result.output
    assert "Alpaydin" in result.output and len(result.output.splitlines()) > 14
    for arguments, message in (
        (["info", "digit"], "did you mean 'digits'?"),
        (["info", "mnist", "--root", str(tmp_path)], "tinydl data fetch mnist"),
        (["fetch", "minst"], "did you mean 'mnist'?"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1 and "error:" in result.output and message in result.output
        assert "Traceback" not in result.output


def test_command_fetch(tmp_path, monkeypatch, server):
    home, _ = server
    serve_names_from(monkeypatch, f"{home}/names.txt")
    result = run("fetch", "names", "--root", str(tmp_path))
    assert result.exit_code == 0 and f"downloading {home}/names.txt" in result.output
    assert (tmp_path / "names.txt").read_bytes() == CONTENT
