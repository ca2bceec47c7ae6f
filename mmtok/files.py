"""Writing files and folders so that nothing is ever lost or half-written."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmtok.errors import MmtokError

NOT_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EFBIG)
CITED = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EFBIG)


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success and removes it on failure.

    Raises:
      MmtokError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    with explain_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with explain_writing(path):
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(folder: str | os.PathLike) -> Iterator[bool]:
    """Claims a folder for this process and yields whether it could; free again when the process ends, however it does.

    Where the file system knows no locks every claim is granted.

    Raises:
      MmtokError: the place cannot be written.
    """
    path = Path(folder) / ".lock"
    with explain_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        mine = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # of any other kind: no locks here
            mine = not isinstance(error, BlockingIOError)
        yield mine


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; renames it to `path` on success, replacing an older one.

    Raises:
      MmtokError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    with explain_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
    try:
        with explain_writing(path):
            yield temporary
            if path.exists():
                old = temporary.with_suffix(".old")
                path.replace(old)
                temporary.replace(path)
                shutil.rmtree(old)
            else:
                temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder; moves the files made in it into `folder` on success, beside those already there.

    A failure while they are made leaves `folder` as it was.

    Raises:
      MmtokError: the disk is full or the place cannot be written.
    """
    folder = Path(folder)
    with explain_writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        with explain_writing(folder):
            yield temporary
            for file in sorted(path for path in temporary.rglob("*") if path.is_file()):
                place = folder / file.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
    except MmtokError as error:
        raise MmtokError(str(error).replace(str(temporary), str(folder))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with new_file(path) as temporary:
        temporary.write_text(text)


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      MmtokError: the file is missing or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise MmtokError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MmtokError(f"{path}: not a JSON file ({error}); it is damaged or not what it was taken for") from None


@contextlib.contextmanager
def explain_writing(path: Path) -> Iterator[None]:
    """Says in one sentence why `path` cannot be written.

    Raises:
      MmtokError: the disk is full or the place cannot be written; any other error passes.
    """
    try:
        yield
    except MmtokError:
        raise
    except Exception as error:
        number = next(filter(None, map(_system_error, causes(error))), None)
        if number is None:
            raise
        if number == errno.ENOSPC:
            raise MmtokError(f"{path}: the disk is full; free some space and run the command again") from error
        raise MmtokError(f"{path}: may not be written ({os.strerror(number)})") from error


def causes(error: BaseException) -> list[BaseException]:
    """Returns an error, what it was raised from, and so on to what first went wrong."""
    chain = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    return chain


def _system_error(error: BaseException) -> int | None:
    """Returns the number of the system's error, where it says that something cannot be written.

    Compiled writers (safetensors, array_record, tensorstore) raise errors that only cite the system's message.
    """
    cited = next((number for number in CITED if os.strerror(number) in str(error)), None)
    number = getattr(error, "errno", None) or cited
    return number if number in (errno.ENOSPC, *NOT_WRITTEN) else None
