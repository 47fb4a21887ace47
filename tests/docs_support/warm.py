"""``fieldpost`` for a nursery: the command line in a process that has imported it already."""

from __future__ import annotations

import os
import sys

import edge.__main__  # noqa: F401
import fieldpost
from tests.docs_support.blocks import ROOT


def main(args: list[str], environment: dict[str, str]) -> None:
    """Run ``fieldpost`` with these arguments and in exactly this environment."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(ROOT / "fieldpost.py"), *args]
    sys.modules["__main__"] = fieldpost  # usage lines name the program
    fieldpost.main()
