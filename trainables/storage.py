"""A folder that may be a local path or any URI pyarrow's file systems take; files appear whole
or not at all."""

import os
import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import fs


class Folder:
    """Named bytes below one place.

    A local write goes to a temporary name, is flushed to the disk and renamed; on an object
    store a write is one upload, which is atomic there. Errors: ValueError for a URI that no file
    system takes, OSError for what the file system refuses."""

    def __init__(self, place: str | Path):
        self.uri = absolute(place)
        if "://" in self.uri:
            try:
                self._files, self._root = fs.FileSystem.from_uri(self.uri)
            except (OSError, ValueError) as error:
                raise ValueError(f"{self.uri}: {error}") from error
            self.local = None
        else:
            self._files, self._root = fs.LocalFileSystem(), self.uri
            self.local = Path(self.uri)

    def folder(self, name: str) -> "Folder":
        """The folder `name` below this one; it need not exist yet."""
        if self.local is not None:
            return Folder(f"{self.uri}/{name}")
        parts = urlsplit(self.uri)  # a store's options, such as its region, follow the path
        return Folder(parts._replace(path=f"{parts.path}/{name}").geturl())

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._root.rstrip("/").rpartition("/")[2]

    def write(self, name: str, data: bytes) -> None:
        """Writes the whole file or leaves the old one as it was."""
        self._files.create_dir(os.path.dirname(self._path(name)), recursive=True)
        if self.local is None:
            with self._files.open_output_stream(self._path(name)) as stream:
                stream.write(data)
            return
        target = Path(self._path(name))
        temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def read(self, name: str) -> bytes:
        """The file's bytes. Errors: FileNotFoundError."""
        with self._files.open_input_stream(self._path(name)) as stream:
            return stream.read()

    def exists(self, name: str = "") -> bool:
        return self._files.get_file_info(self._path(name)).type != fs.FileType.NotFound

    def names(self, name: str = "") -> list[str]:
        """Names of the files and folders directly below, sorted; none when there is no such folder.
        Temporary files of a write that was cut off are left out."""
        selector = fs.FileSelector(self._path(name), allow_not_found=True)
        found = (entry.base_name for entry in self._files.get_file_info(selector))
        return sorted(base for base in found if not base.startswith("."))

    def delete(self, name: str = "") -> None:
        """Removes a file, or a folder with all it holds; nothing happens when it is gone
        already."""
        kind = self._files.get_file_info(self._path(name)).type
        if kind == fs.FileType.Directory:
            self._files.delete_dir(self._path(name))
        elif kind != fs.FileType.NotFound:
            self._files.delete_file(self._path(name))

    def copy_to(self, name: str, target: Path) -> None:
        """Copies a file or a folder with all it holds to a local path. Errors:
        FileNotFoundError."""
        info = self._files.get_file_info(self._path(name))
        if info.type == fs.FileType.Directory:
            target.mkdir(parents=True, exist_ok=True)
            for inside in self.names(name):
                self.copy_to(f"{name}/{inside}", target / inside)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def absolute(place: str | Path) -> str:
    """A URI as it stands; a path, also one written as `file://`, made absolute."""
    text = str(place)
    if text.startswith("file://"):
        return os.path.abspath(unquote(urlsplit(text).path))
    return text.rstrip("/") if "://" in text else os.path.abspath(os.path.expanduser(text))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
