"""Files that are whole or not there, folders that belong to one process, and what cannot be written."""

import errno
import os
import re
import subprocess
import sys

import pytest

from mmtok.errors import MmtokError
from mmtok.files import claimed, explain_writing, new_file, new_files, new_folder

CLAIM = """
import sys, time
from mmtok.files import claimed
with claimed(sys.argv[1]) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_failure_leaves_what_was_there(tmp_path, new):
    path = tmp_path / "some" / "thing"

    def write(text, count):
        with new(path) as temporary:
            (temporary if new is new_file else temporary / "inside").write_text(text * count)

    write("old", 1)
    with pytest.raises(TypeError):
        write("half", None)
    assert (path if new is new_file else path / "inside").read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_new_files_lie_beside_old_ones(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with new_files(tmp_path / "out") as temporary:
        (temporary / "new").write_text("added")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine", "new"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("cited", [False, True])
def test_what_cannot_be_written_is_one_sentence(tmp_path, number, cited):
    said = os.strerror(number)
    error = RuntimeError(f"compiled code says: {said} [{number}]") if cited else OSError(number, said)
    sentence = "the disk is full" if number == errno.ENOSPC else f"may not be written ({said})"
    with pytest.raises(MmtokError, match=re.escape(f"{tmp_path}: {sentence}")), explain_writing(tmp_path):
        raise error


def test_what_cannot_be_written_is_found_below_other_errors(tmp_path):
    cause = ValueError(f"write failed: {os.strerror(errno.ENOSPC)}")
    with pytest.raises(MmtokError, match="the disk is full"), explain_writing(tmp_path):
        raise RuntimeError("the background thread has failed") from cause


def test_other_errors_pass(tmp_path):
    with pytest.raises(ZeroDivisionError), explain_writing(tmp_path):
        raise ZeroDivisionError


def test_a_folder_has_one_owner_until_that_ends(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", CLAIM, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with claimed(tmp_path) as mine:
        assert not mine
    other.kill()
    other.communicate()
    with claimed(tmp_path) as mine:
        assert mine
    with claimed(tmp_path) as mine:
        assert mine


def test_file_systems_without_locks_grant_every_claim(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with claimed(tmp_path) as one, claimed(tmp_path) as two:
        assert (one, two) == (True, True)
    with pytest.raises(OSError, match="inside"), claimed(tmp_path):
        raise OSError("inside")
