"""What a process says before it dies: lines in files that no power cut of the tests takes back. The oracle."""

from __future__ import annotations

import os
from pathlib import Path


class Record:
    """Lines appended to one file, each written at once."""

    def __init__(self, directory: Path, name: str) -> None:
        self._fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, *fields: object) -> None:
        os.write(self._fd, (" ".join(map(str, fields)) + "\n").encode())


def read(directory: Path, name: str) -> list[list[str]]:
    """The whole lines of a record, each split into its fields."""
    file = directory / name
    text = file.read_text() if file.exists() else ""
    return [line.split() for line in text.split("\n")[:-1]]


def words(directory: Path, name: str) -> list[str]:
    """The first field of each line."""
    return [fields[0] for fields in read(directory, name)]
