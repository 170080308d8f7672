"""Image sets: folders of any kind of image, downloads that are shared, damaged or killed."""

import hashlib
import io
import json
import os
import pickle
import signal
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
import torch
import torchvision
from PIL import Image

from trainables import data, sources
from trainables.sources import DataError, imagefolder


def picture(size=(12, 12), value: int = 100) -> Image.Image:
    return Image.new("RGB", size, (value, value // 2, 255 - value))


def folder(
    root: Path, classes=("ape", "bee"), each: int = 3, size=(12, 12), first: int = 0
) -> Path:
    """Images whose red is a number of their own."""
    number = first
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(size, number).save(root / name / f"{i}.png")
            number += 1
    return root


def reds(images: sources.Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


# ---- folders of images


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "grey-tif"])
def test_every_mode_of_image_is_read_as_rgb(tmp_path, mode):
    """A vertical edge: the left half dark, the right half light, whatever the file holds."""
    folder(tmp_path)
    values = np.zeros((12, 12), dtype=np.uint8)
    values[:, 6:] = 200 if mode != "1" else 255
    grey = Image.fromarray(values)
    path = tmp_path / "ape" / "edge.png"
    if mode == "CMYK":
        path = path.with_suffix(".jpg")
        grey.convert("CMYK").save(path, quality=95)
    elif mode == "I;16":
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    elif mode == "grey-tif":
        path = path.with_suffix(".tif")
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    elif mode == "P":
        grey.quantize().save(path)
    else:
        grey.convert("RGB").convert(mode).save(path)
    pixels = imagefolder(tmp_path).train.pixels
    assert pixels.shape == (7, 3, 12, 12)
    edge = pixels[3].numpy().astype(int)  # after 0.png, 1.png and 2.png
    assert np.abs(edge - values.astype(int)).max() <= (12 if mode == "CMYK" else 1)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    folder(tmp_path)
    image = picture(value=80).quantize()
    image.save(tmp_path / "ape" / "9.png", transparency=bytes([128] * 8))
    assert imagefolder(tmp_path).train.pixels[3, :, 0, 0].tolist() == [80, 40, 175]


def test_labels_follow_the_sorted_names_of_the_folders(tmp_path):
    folder(tmp_path, ("zebra", "ape", "Bee"), each=2)
    source = imagefolder(tmp_path)
    assert source.classes == ("Bee", "ape", "zebra")
    assert source.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert reds(source.train) == [4, 5, 2, 3, 0, 1]
    assert source.train.pixels.dtype == torch.uint8


def test_what_is_no_image_is_left_out_and_folders_below_a_class_are_not(tmp_path):
    folder(tmp_path)
    (tmp_path / "ape" / "notes.txt").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README").write_text("x")
    (tmp_path / "bee" / "more").mkdir()
    picture(value=77).save(tmp_path / "bee" / "more" / "x.PNG")
    source = imagefolder(tmp_path)
    assert source.classes == ("ape", "bee")
    assert reds(source.train) == [0, 1, 2, 3, 4, 5, 77]


@pytest.mark.parametrize(
    ("sizes", "asked", "side"),
    [
        ([(12, 12)], None, 12),
        ([(64, 64)], None, 64),
        ([(65, 65)], None, 64),
        ([(12, 14)], None, 64),
        ([(12, 12), (14, 14)], None, 64),
        ([(12, 12), (90, 30)], 16, 16),
    ],
)
def test_the_size_is_the_images_own_when_they_share_a_small_one(tmp_path, sizes, asked, side):
    folder(tmp_path, size=sizes[0])
    picture(sizes[-1]).save(tmp_path / "ape" / "9.png")
    assert imagefolder(tmp_path, image_size=asked).train.pixels.shape == (7, 3, side, side)


def test_a_resized_image_keeps_its_shape_and_is_cut_around_its_centre(tmp_path):
    folder(tmp_path)
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 30:] = 255
    wide[:, :10], wide[:, 50:] = 99, 99  # outside the middle square
    Image.fromarray(wide).save(tmp_path / "ape" / "9.png")
    image = imagefolder(tmp_path, image_size=10).train.pixels[3, 0]
    assert image[:, :4].max() == 0
    assert image[:, 6:].min() == 255


@pytest.mark.parametrize("parts", [(), ("test",), ("val",), ("val", "test")])
def test_layouts(tmp_path, parts):
    if parts:
        folder(tmp_path / "train", each=10)
        for number, part in enumerate(parts):
            folder(tmp_path / part, each=4, first=100 * (number + 1))
    else:
        folder(tmp_path, each=10)
    search = data.build("imagefolder", root=str(tmp_path), validation_fraction=0.25)
    final = data.build("imagefolder", root=str(tmp_path), final=True)
    if not parts:
        assert len(search.train) + len(search.held_out) == len(final.train) == 16
        assert not set(reds(search.train) + reds(search.held_out)) & set(reds(final.held_out))
    elif len(parts) == 1:
        assert sorted(reds(search.train) + reds(search.held_out)) == list(range(20))
        assert reds(final.train) == list(range(20))
        assert reds(final.held_out) == list(range(100, 108))
    else:
        assert reds(search.train) == list(range(20))
        assert reds(search.held_out) == list(range(100, 108))
        assert sorted(reds(final.train)) == list(range(20)) + list(range(100, 108))
        assert reds(final.held_out) == list(range(200, 208))


def test_a_damaged_test_image_does_not_disturb_the_search(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test")
    (tmp_path / "test" / "ape" / "0.png").write_bytes(b"no image")
    data.build("imagefolder", root=str(tmp_path))
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read: .*test/ape/0\.png"):
        data.build("imagefolder", root=str(tmp_path), final=True)


def test_all_damaged_images_are_named_in_one_error(tmp_path):
    folder(tmp_path, each=4)
    whole = (tmp_path / "ape" / "0.png").read_bytes()
    (tmp_path / "ape" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "ape" / "2.png").write_bytes(b"")
    (tmp_path / "bee" / "3.png").write_bytes(b"\0" * 500)
    with pytest.raises(DataError, match="3 of 8 images cannot be read: ") as raised:
        imagefolder(tmp_path, image_size=12)
    for name in ("ape/1.png", "ape/2.png", "bee/3.png"):
        assert str(tmp_path / name) in str(raised.value)
    assert "ape/0.png" not in str(raised.value)


def test_hundreds_of_damaged_images_make_a_short_error(tmp_path):
    folder(tmp_path, each=2)
    for i in range(300):
        (tmp_path / "bee" / f"x{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="300 of 304 images") as raised:
        imagefolder(tmp_path)
    assert len(str(raised.value)) < 3000


def test_parts_of_unlike_classes_are_refused(tmp_path):
    folder(tmp_path / "train", ("ape", "bee"))
    folder(tmp_path / "test", ("ape", "cat"))
    with pytest.raises(DataError, match="train/ and test/ differ in the classes bee, cat"):
        imagefolder(tmp_path)


def test_an_empty_class_is_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no images in cat"):
        imagefolder(tmp_path)


@pytest.mark.parametrize("classes", [(), ("ape",)])
def test_fewer_than_two_classes_are_refused(tmp_path, classes):
    folder(tmp_path, classes)
    with pytest.raises(DataError, match=f"{len(classes)} class folder"):
        imagefolder(tmp_path)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match="missing: no such folder"):
        data.build("imagefolder", root=str(tmp_path / "missing"))


def test_synthetic_images_are_the_same_each_time_and_unlike_in_train_and_test():
    one, two = sources.synthetic(Path("/")), sources.synthetic(Path("/"))
    assert torch.equal(one.train.pixels, two.train.pixels)
    assert len(one.test()) == 128
    assert not torch.equal(one.train.pixels[:128], one.test().pixels)


# ---- CIFAR: a small archive in its exact layout, from a server on this machine


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


def digest(source: sources.Source) -> str:
    found = hashlib.sha256()
    for part in (source.train, source.test()):
        found.update(part.pixels.numpy().tobytes())
        found.update(part.labels.numpy().tobytes())
    return found.hexdigest()


READ = """
import hashlib, json, multiprocessing, sys
from pathlib import Path
import torch, torchvision
from trainables import sources

def read(root, attributes, barrier):
    torch.set_num_threads(1)
    barrier.wait()
    kind = type("TinyCifar", (torchvision.datasets.CIFAR100,), attributes)
    source = sources._cifar(kind, Path(root), True)
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
    source = sources._cifar(TinyCifar, root, download=True)
    assert os.listdir(root) == ["cifar-100-python"]
    assert source.classes == tuple("abcd")
    assert source.train.pixels.shape == (40, 3, 32, 32)
    assert source.train.labels.tolist() == [i % 4 for i in range(40)]
    with open(root / "cifar-100-python" / "train", "rb") as file:
        rows = pickle.load(file)["data"]  # noqa: S301 - made by this test
    assert source.train.pixels.numpy().tobytes() == rows.tobytes()  # row: red, green, blue plane
    assert len(source.test()) == 8


def test_four_processes_at_once_make_one_download(tmp_path, cifar):
    server, attributes = cifar
    process = start_readers(tmp_path / "data", attributes, 4)
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert server.downloads == 1
    assert len(out.split()) == 4, errors
    expected = digest(sources._cifar(TinyCifar, tmp_path / "data", download=True))
    assert set(out.split()) == {expected}
    assert server.downloads == 1
    assert os.listdir(tmp_path / "data") == ["cifar-100-python"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_folder_is_set_aside_and_downloaded_again(tmp_path, cifar, name, damage):
    server, _ = cifar
    expected = digest(sources._cifar(TinyCifar, tmp_path, download=True))
    file = tmp_path / "cifar-100-python" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "truncated" else content)
    assert digest(sources._cifar(TinyCifar, tmp_path, download=True)) == expected
    assert server.downloads == 2
    (aside,) = tmp_path.glob("cifar-100-python.damaged-*")
    assert (aside / name).exists() == (damage != "missing")


def test_a_folder_damaged_twice_is_set_aside_twice(tmp_path, cifar):
    for _ in range(2):
        sources._cifar(TinyCifar, tmp_path, download=True)
        (tmp_path / "cifar-100-python" / "meta").write_bytes(b"")
    assert len(sources._cifar(TinyCifar, tmp_path, download=True).train) == 40
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
    assert len(sources._cifar(TinyCifar, root, download=True).train) == 40


def test_a_refused_connection_is_one_data_error(tmp_path, cifar, monkeypatch):
    server, _ = cifar
    monkeypatch.setattr(TinyCifar, "url", "http://127.0.0.1:9/none.tar.gz")
    with pytest.raises(DataError, match=r"cannot download TinyCifar: .*refused"):
        sources._cifar(TinyCifar, tmp_path / "data", download=True)
    assert os.listdir(tmp_path / "data") == []
    assert server.downloads == 0


def test_a_download_of_other_bytes_is_refused(tmp_path, cifar):
    server, _ = cifar
    server.content = server.content[:-20] + bytes(20)
    with pytest.raises(DataError, match="cannot download TinyCifar"):
        sources._cifar(TinyCifar, tmp_path / "data", download=True)
    assert os.listdir(tmp_path / "data") == []


def test_without_download_nothing_is_fetched(tmp_path, cifar):
    server, _ = cifar
    with pytest.raises(DataError, match=r"not there or damaged; set trial\.data\.download"):
        sources._cifar(TinyCifar, tmp_path, download=False)
    assert server.downloads == 0
