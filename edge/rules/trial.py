"""Trying sets of the cloud's objects beside the files of a node, without running any of it (flow F4, protocol P6.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from common.errors import ConfigError
from edge.rules.configuration import Configuration, Files, Wanted
from edge.rules.edits import Edit, words
from edge.rules.fitting import Blame, Objects

log = logging.getLogger(__name__)


class Trial:
    """Says what is wrong with a set of the cloud's objects beside ``files``, and remembers the last that was right.

    ``edits`` go over what is to run; they are no reason to refuse an object.
    """

    def __init__(self, configuration: Configuration, files: Files, edits: Sequence[Edit] = ()) -> None:
        self._configuration, self.files, self._edits = configuration, files, edits
        self._right: tuple[Objects, Wanted] | None = None

    def __call__(self, objects: Objects) -> list[Blame]:
        wanted, blames = self._configuration.tried(self.files, objects)
        if not blames:
            self._right = objects, wanted
        return blames

    def wanted(self, objects: Objects) -> Wanted:
        """What a node with these is to run, but for edits. Raises ConfigError."""
        if self._right is not None and self._right[0] == objects:
            return self._right[1]
        return self._configuration.wanted(self.files, objects)

    def edited(self, objects: Objects) -> tuple[Wanted, list[Edit]]:
        """What a node with these is to run, and those edits that still fit over it. Raises ConfigError."""
        wanted, fitting = self.wanted(objects), list[Edit]()
        for edit in self._edits:
            try:
                wanted = self._configuration.wanted(self.files, objects, [*fitting, edit])
                fitting.append(edit)
            except ConfigError as exc:
                log.warning("the edit %r fits no more and is dropped: %s", words(edit), exc)
        return wanted, fitting
