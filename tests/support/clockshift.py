"""A process whose wall clock jumps while it runs: ``clockshift.c``, built at need, and the file that it looks at."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

from tests.support.powerloss import NO_COMPILER, find_compiler


class ClockShift:
    """The wall clock of the processes that run in ``environment``. It begins as the machine's.

    Not the product's own clock alone: identifiers, logs and libraries see the jump too.
    """

    def __init__(self, directory: Path) -> None:
        compiler, self._library = find_compiler(), directory / "clockshift.so"
        assert compiler, NO_COMPILER
        source = str(Path(__file__).with_suffix(".c"))
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(self._library), source, "-ldl"], check=True)
        self._file = directory / "shift"
        self.to(0)

    def to(self, seconds: int) -> None:
        """Set the clock so far ahead of the machine's (behind: negative)."""
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:  # the same file: it is mapped
            file.write(struct.pack("=q", seconds))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of such a process."""
        return {**os.environ, "LD_PRELOAD": str(self._library), "CLOCKSHIFT_FILE": str(self._file)}
