"""One director a folder, whatever happens to the one before."""
from __future__ import annotations

import os

import pytest

from lbq.errors import DirectorRunning
from lbq.lock import DirectoryLock


def test_the_folder_is_there_as_long_as_the_lock(tmp_path):
    folder = tmp_path / "4026531840"
    with DirectoryLock(folder):
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_a_second_director_is_told_who_holds_it(tmp_path):
    with DirectoryLock(tmp_path / "x"), \
         pytest.raises(DirectorRunning, match=rf"already runs .* \(pid {os.getpid()}\).* lbq stop"):
        DirectoryLock(tmp_path / "x").__enter__()


@pytest.mark.parametrize("content", [b"\xff\xfe\x80", b"", b"1\n2\n", b"x" * 100])
def test_a_lock_that_says_anything_is_still_a_lock(tmp_path, content):
    with DirectoryLock(tmp_path / "x"):
        (tmp_path / "x" / "lock").write_bytes(content)

        with pytest.raises(DirectorRunning, match="already runs in this network namespace"):
            DirectoryLock(tmp_path / "x").__enter__()


def test_the_refused_one_takes_nothing_away(tmp_path):
    with DirectoryLock(tmp_path / "x"):
        with pytest.raises(DirectorRunning), DirectoryLock(tmp_path / "x"):
            pass
        with pytest.raises(DirectorRunning), DirectoryLock(tmp_path / "x"):
            pass


def test_a_lock_file_left_by_a_crash_is_free(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "lock").write_text("12345678\n")
    with DirectoryLock(tmp_path / "x"):
        assert (tmp_path / "x" / "lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_with_something_to_undo_stays(tmp_path):
    with DirectoryLock(tmp_path / "x"):
        (tmp_path / "x" / "undo.json").touch()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["undo.json"]


def test_a_lock_file_that_was_removed_meanwhile_is_not_taken_for_ours(tmp_path, monkeypatch):
    """The one before us unlinks its file while we wait for it: what we locked then is nobody's any more."""
    lock, real_flock, removed = DirectoryLock(tmp_path / "x"), __import__("fcntl").flock, []

    def flock(descriptor, how):
        real_flock(descriptor, how)
        if not removed:
            removed.append((tmp_path / "x" / "lock").unlink())

    monkeypatch.setattr("fcntl.flock", flock)
    with lock:
        assert os.fstat(lock.descriptor).st_ino == (tmp_path / "x" / "lock").stat().st_ino
