"""CIFAR: downloads that are shared, damaged or killed, of a small archive in its exact layout, from
a server on this machine."""

import hashlib
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision

from tests.size import size
from trainables.images import Source
from trainables.sources import DataError
from trainables.sources import cifar as cifar_source
from trainables.sources.cifar import read


def cifar100_archive() -> tuple[bytes, dict]:
    """The bytes of the archive, and what torchvision must know of it."""
    generator = np.random.default_rng(0)

    def images(count: int) -> dict:
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, "fine_labels": [i % 4 for i in range(count)]}

    names = {"fine_label_names": list("abcd"), "coarse_label_names": ["x"]}
    parts = {"train": images(40), "test": images(8), "meta": names}
    buffer, sums = io.BytesIO(), {}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, part in parts.items():
            content = pickle.dumps(part, protocol=2)
            sums[name] = hashlib.md5(content).hexdigest()
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    attributes = {
        "tgz_md5": hashlib.md5(buffer.getvalue()).hexdigest(),
        "train_list": [["train", sums["train"]]],
        "test_list": [["test", sums["test"]]],
        "meta": {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]},
    }
    return buffer.getvalue(), attributes


class Server(ThreadingHTTPServer):
    """Serves one archive; `stall` sends half of it and then waits."""

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.downloads = content, 0
        self.stall, self.half_sent, self.go_on = False, threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/cifar-100-python.tar.gz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        if self.headers["Method"] == "HEAD":  # how torchvision asks for redirects
            return
        self.server.downloads += 1
        half = len(self.server.content) // 2
        self.wfile.write(self.server.content[:half])
        if self.server.stall:
            self.server.half_sent.set()
            self.server.go_on.wait(60)
            return
        self.wfile.write(self.server.content[half:])

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(content: bytes):
    server = Server(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class TinyCifar(torchvision.datasets.CIFAR100):
    """CIFAR-100 with another address and other checksums."""


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """The server, the class that downloads from it and its attributes."""
    content, attributes = cifar100_archive()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))
    (tmp_path / "locks").mkdir()
    with serving(content) as server:
        attributes["url"] = server.url
        for name, value in attributes.items():
            monkeypatch.setattr(TinyCifar, name, value, raising=False)
        yield server, attributes


def digest(source: Source) -> str:
    found = hashlib.sha256()
    for part in (source.train, source.test()):
        found.update(part.pixels.numpy().tobytes())
        found.update(part.labels.numpy().tobytes())
    return found.hexdigest()


READ = """
import hashlib, json, multiprocessing, sys
from pathlib import Path
import torch, torchvision
from trainables.sources import cifar

def read(root, attributes, barrier):
    torch.set_num_threads(1)
    barrier.wait()
    kind = type("TinyCifar", (torchvision.datasets.CIFAR100,), attributes)
    source = cifar.read(kind, Path(root), True)
    found = hashlib.sha256()
    for part in (source.train, source.test()):
        found.update(part.pixels.numpy().tobytes())
        found.update(part.labels.numpy().tobytes())
    sys.stdout.write(found.hexdigest() + "\\n")  # one write: the four share a pipe
    sys.stdout.flush()

root, attributes, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
fork = multiprocessing.get_context("fork")
barrier = fork.Barrier(count)
if count == 1:
    read(root, attributes, barrier)
else:
    ps = [fork.Process(target=read, args=(root, attributes, barrier)) for _ in range(count)]
    [p.start() for p in ps]
    [p.join() for p in ps]
"""


def start_readers(root: Path, attributes: dict, count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", READ, str(root), json.dumps(attributes), str(count)],
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_download_is_the_data_set_and_leaves_nothing_else(tmp_path, cifar):
    root = tmp_path / "data"
    source = read(TinyCifar, root, download=True)
    assert os.listdir(root) == ["cifar-100-python"]
    assert source.classes == tuple("abcd")
    assert source.train.pixels.shape == (40, 3, 32, 32)
    assert source.train.labels.tolist() == [i % 4 for i in range(40)]
    with open(root / "cifar-100-python" / "train", "rb") as file:
        rows = pickle.load(file)["data"]  # noqa: S301 - made by this test
    assert source.train.pixels.numpy().tobytes() == rows.tobytes()  # row: red, green, blue plane
    assert len(source.test()) == 8


def test_processes_at_once_make_one_download(tmp_path, cifar):
    server, attributes = cifar
    count = size(4, 8)
    process = start_readers(tmp_path / "data", attributes, count)
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert server.downloads == 1
    assert len(out.split()) == count, errors
    expected = digest(read(TinyCifar, tmp_path / "data", download=True))
    assert set(out.split()) == {expected}
    assert server.downloads == 1
    assert os.listdir(tmp_path / "data") == ["cifar-100-python"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_folder_is_set_aside_and_downloaded_again(tmp_path, cifar, name, damage):
    server, _ = cifar
    expected = digest(read(TinyCifar, tmp_path, download=True))
    file = tmp_path / "cifar-100-python" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "truncated" else content)
    assert digest(read(TinyCifar, tmp_path, download=True)) == expected
    assert server.downloads == 2
    (aside,) = tmp_path.glob("cifar-100-python.damaged-*")
    assert (aside / name).exists() == (damage != "missing")


def test_a_folder_damaged_twice_is_set_aside_twice(tmp_path, cifar):
    for _ in range(2):
        read(TinyCifar, tmp_path, download=True)
        (tmp_path / "cifar-100-python" / "meta").write_bytes(b"")
    assert len(read(TinyCifar, tmp_path, download=True).train) == 40
    assert len(list(tmp_path.glob("cifar-100-python.damaged-*"))) == 2


def test_a_killed_download_leaves_nothing_under_the_final_name(tmp_path, cifar):
    server, attributes = cifar
    root = tmp_path / "data"
    server.stall = True
    process = start_readers(root, attributes, 1)
    try:
        assert server.half_sent.wait(60)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (root / "cifar-100-python").exists()
    server.stall = False
    server.go_on.set()
    assert len(read(TinyCifar, root, download=True).train) == 40


def test_a_refused_connection_is_one_data_error(tmp_path, cifar, monkeypatch):
    server, _ = cifar
    monkeypatch.setattr(TinyCifar, "url", "http://127.0.0.1:9/none.tar.gz")
    with pytest.raises(DataError, match=r"cannot download TinyCifar: .*refused"):
        read(TinyCifar, tmp_path / "data", download=True)
    assert os.listdir(tmp_path / "data") == []
    assert server.downloads == 0


def test_a_server_that_falls_silent_is_given_up(tmp_path, cifar, monkeypatch):
    server, _ = cifar
    server.stall = True
    monkeypatch.setattr(cifar_source, "_SILENCE_S", 0.2)
    with pytest.raises(DataError, match=r"cannot download TinyCifar: .*timed out"):
        read(TinyCifar, tmp_path / "data", download=True)
    server.go_on.set()
    assert os.listdir(tmp_path / "data") == []
    assert socket.getdefaulttimeout() is None


def test_a_download_of_other_bytes_is_refused(tmp_path, cifar):
    server, _ = cifar
    server.content = server.content[:-20] + bytes(20)
    with pytest.raises(DataError, match="cannot download TinyCifar"):
        read(TinyCifar, tmp_path / "data", download=True)
    assert os.listdir(tmp_path / "data") == []


def test_what_is_there_is_read_once(tmp_path, cifar, monkeypatch):
    read(TinyCifar, tmp_path, download=True)
    made, inner = [], TinyCifar.__init__

    def counted(self, *arguments, **settings):
        made.append(settings)
        inner(self, *arguments, **settings)

    monkeypatch.setattr(TinyCifar, "__init__", counted)
    source = read(TinyCifar, tmp_path, download=True)
    assert [settings["train"] for settings in made] == [True]
    source.test()
    assert [settings["train"] for settings in made] == [True, False]


def test_without_download_nothing_is_fetched(tmp_path, cifar):
    server, _ = cifar
    with pytest.raises(DataError, match=r"not there or damaged; set trial\.data\.download"):
        read(TinyCifar, tmp_path, download=False)
    assert server.downloads == 0
