"""Files written whole or not at all, wherever a path leads."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

import mrl
from mrl.files import write_atomically

POLICY = mrl.CascadePolicy((0.5,), (2, 4))


def mode_of(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("Größe\n", "Größe\n".encode()),
        (b"\x00\xff\r\n", b"\x00\xff\r\n"),
        (lambda stream: [stream.write(part) for part in (b"a", b"", b"\nb")], b"a\nb"),
        (b"", b""),
    ],
)
def test_text_bytes_and_streams(tmp_path, content, written: bytes) -> None:
    path = tmp_path / ("n" * 255)  # as long as a name may be
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == written and os.listdir(tmp_path) == [path.name]
    write_atomically(str(tmp_path / "by text"), content)
    assert (tmp_path / "by text").read_bytes() == written


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, relative: bool) -> None:
    (tmp_path / "store").mkdir()
    target, link, link_to_link = tmp_path / "store" / "v1.json", tmp_path / "current.json", tmp_path / "latest.json"
    link.symlink_to("store/v1.json" if relative else target)
    link_to_link.symlink_to(link.name)
    for policy in (POLICY, mrl.CascadePolicy((0.9,), (2, 4))):  # first it leads nowhere yet
        policy.save(link_to_link)
        assert link.is_symlink() and link_to_link.is_symlink() and not target.is_symlink()
        assert mrl.CascadePolicy.load(target) == mrl.CascadePolicy.load(link) == policy
    assert sorted(os.listdir(tmp_path)) == ["current.json", "latest.json", "store"]
    assert os.listdir(tmp_path / "store") == ["v1.json"]


def test_links_that_lead_nowhere(tmp_path) -> None:
    here, there, lost = tmp_path / "here", tmp_path / "there", tmp_path / "lost"
    here.symlink_to(there)
    there.symlink_to(here)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        POLICY.save(here)
    assert caught.value.errno == errno.ELOOP
    lost.symlink_to(tmp_path / "no folder" / "policy.json")
    with pytest.raises(FileNotFoundError):
        POLICY.save(lost)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        POLICY.save(tmp_path / "file" / "policy.json")
    assert sorted(os.listdir(tmp_path)) == ["file", "here", "lost", "there"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_the_mode_of_what_is_replaced(tmp_path, mode: int) -> None:
    path, link = tmp_path / "policy.json", tmp_path / "link"
    path.touch()
    link.symlink_to(path)
    path.chmod(mode)
    for name in (path, link):
        POLICY.save(name)
        assert mode_of(path) == mode and mrl.CascadePolicy.load(path) == POLICY


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_of_a_new_file(tmp_path, umask: int) -> None:
    before = os.umask(umask)
    try:
        POLICY.save(tmp_path / "policy.json")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "policy.json") == mode_of(tmp_path / "plain") == 0o666 & ~umask


def test_what_is_not_for_others_never_was(tmp_path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    seen = []

    def write(stream) -> None:
        stream.write(b"half")
        seen.extend(mode_of(tmp_path / name) for name in os.listdir(tmp_path))

    write_atomically(path, write)
    assert seen == [0o600, 0o600] and mode_of(path) == 0o600


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("where", ["write", "replace", "chmod", "fsync"])
def test_what_is_interrupted_leaves_the_old_file(
    tmp_path, error: BaseException, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.json"
    POLICY.save(path)

    def fail(*_) -> None:
        raise error

    def write(stream) -> None:
        stream.write(b"half of it")
        if where == "write":
            assert path.read_text() == POLICY.to_json()
            fail()

    if where != "write":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert mrl.CascadePolicy.load(path) == POLICY and os.listdir(tmp_path) == ["policy.json"]


def test_a_folder_that_may_not_be_written() -> None:
    folder = Path(tempfile.mkdtemp())  # not pytest's, whose folders only their owner may enter
    path = folder / "policy.json"
    POLICY.save(path)
    path.chmod(0o666)
    folder.chmod(0o555)
    root = os.geteuid() == 0  # to whom nothing is forbidden
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            mrl.CascadePolicy((0.9,), (2, 4)).save(path)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
    assert mrl.CascadePolicy.load(path) == POLICY and os.listdir(folder) == ["policy.json"]


def test_what_cannot_be_replaced_is_written_to(tmp_path) -> None:
    with pytest.raises(IsADirectoryError):
        POLICY.save(tmp_path)
    write_atomically("/dev/null", "nothing")
    assert not stat.S_ISREG(os.stat("/dev/null").st_mode)
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(link, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]
