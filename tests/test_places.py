"""Locks among processes, on file systems of all kinds."""

from __future__ import annotations

import errno
import fcntl

import pytest

from mlx_tilegemm.core.places import locked


@pytest.fixture
def failing(monkeypatch):
    """Has the file system answer each request for a lock with an error."""

    def fail(number):
        def flock(*_):
            raise OSError(number, "of a file system")

        monkeypatch.setattr(fcntl, "flock", flock)

    return fail


@pytest.mark.parametrize("name", ["ENOLCK", "ENOTSUP", "EOPNOTSUPP"])
def test_a_lock_is_not_held_where_there_are_none(tmp_path, failing, name):
    failing(getattr(errno, name))
    with locked(tmp_path / "lock", 0.05) as held:
        assert held is False


def test_other_errors_are_told(tmp_path, failing):
    failing(errno.EIO)
    with pytest.raises(OSError, match="of a file system"), locked(tmp_path / "lock", 0.05):
        pass


def test_a_lock_is_held_once(tmp_path):
    with locked(tmp_path / "lock", 0.05) as first, locked(tmp_path / "lock", 0.05) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "lock", 0.05) as again:
        assert again
