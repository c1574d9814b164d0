"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path
from typing import BinaryIO, TypeAlias

Content: TypeAlias = str | bytes | Callable[[BinaryIO], object]
"""Text, which is written as UTF-8; bytes; or what writes them to a stream that it is given."""


def write_atomically(path: str | PathLike[str], content: Content) -> None:
    r"""Write a new file in the same folder, then put it in place: a reader sees the old one or the new one.

    A symbolic link is followed, as by ``open``, and stays. The file has the mode of the one that it replaces, or that
    of a new one. What can be written to but not replaced, such as ``/dev/stdout``, is written to.

    Raises:
        OSError: the file cannot be written; what was there before is there still.

    Example:
        >>> import tempfile, pathlib
        >>> from mrl.files import write_atomically
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
        >>> write_atomically(path, "one line\n")
        >>> write_atomically(path, lambda stream: stream.writelines([b"two ", b"lines\n"]))
        >>> path.read_text(), [file.name for file in path.parent.iterdir()]
        ('two lines\n', ['notes.txt'])
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        with open(path, "wb") as stream:  # a folder is refused here
            _write(stream, content)
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".mrl-{secrets.token_hex(8)}.tmp")
    # The beginning of a file that nobody else may read nobody else reads either.
    create = partial(os.open, mode=0o666 if mode is None else 0o600)
    with open(temporary, "xb", opener=create) as stream:
        try:
            _write(stream, content)
            stream.flush()
            os.fsync(stream.fileno())
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            stream.close()
            os.replace(temporary, target)
        except BaseException:
            stream.close()
            temporary.unlink(missing_ok=True)
            raise


def _write(stream: BinaryIO, content: Content) -> None:
    if callable(content):
        content(stream)
    else:
        stream.write(content.encode() if isinstance(content, str) else content)
