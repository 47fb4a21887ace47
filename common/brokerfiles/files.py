"""Writing files that hold secrets: whole or not at all, and readable by their owner only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from common.errors import ConfigError

_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700


def write_private(path: Path, data: str | bytes) -> None:
    """Write ``data`` to ``path`` with mode 0600, by a rename; nothing happens when it holds that already.

    Raises ConfigError when it cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        if path.exists() and path.read_bytes() == content:
            path.chmod(_FILE_MODE)
            return
        make_private(path.parent)
        new = path.with_name(f".{path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as exc:
        raise ConfigError(f"cannot be written: {exc.strerror}", file=str(path)) from exc


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, with mode 0700. Raises OSError."""
    if not directory.parent.exists():  # mkdir(parents=True) would give those the default mode
        make_private(directory.parent)
    directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)


def read_text(path: Path) -> str:
    """Return a file's text, empty when there is no such file. Raises ConfigError when it cannot be read."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot be read: {exc}", file=str(path)) from exc
