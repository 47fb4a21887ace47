"""The verbs that a hook point declares: what a chain may decide, and what stands behind each word (L6, L7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from common.chain.errors import MisuseError


class Shape(StrEnum):
    """What a verb takes."""

    NOTHING = "nothing"
    REASON = "reason"  # optional; it becomes ``$error``
    TARGET = "target"  # required, an empty one is misuse
    OPTIONAL = "optional"  # a target that may be left out


COMMON: Mapping[str, Shape] = {
    "accept": Shape.NOTHING,
    "reject": Shape.REASON,
    "drop": Shape.REASON,
    "forward": Shape.TARGET,
    "server": Shape.TARGET,
}
ALIASES: Mapping[str, str] = {"call-server": "server"}


class Verbs:
    """The verbs of one hook point. Words in ``COMMON`` have the shape given there, others may have a target."""

    def __init__(self, words: Iterable[str] | Mapping[str, Shape] = tuple(COMMON)) -> None:
        given = words if isinstance(words, Mapping) else {word: COMMON.get(word, Shape.OPTIONAL) for word in words}
        self.shapes: dict[str, Shape] = dict(given)
        self.key = tuple(self.shapes.items())

    def __contains__(self, word: object) -> bool:
        return self.canonical(word) in self.shapes if isinstance(word, str) else False

    def canonical(self, word: str) -> str:
        """The verb that ``word`` means: ``call-server`` is ``server``."""
        return word if word in self.shapes else ALIASES.get(word, word)

    def of_text(self, text: str) -> tuple[str, str] | None:
        """Verb and target of a text whose first word is a declared verb, else None.

        Raises MisuseError PC-RUN-EMPTY-TARGET where the verb needs a target and has none.
        """
        head, _, rest = text.strip().partition(" ")
        verb = self.canonical(head)
        shape = self.shapes.get(verb)
        if shape is None:
            return None
        target = rest.strip()
        if shape is Shape.TARGET and not target:
            raise empty_target(verb)
        return verb, target


def empty_target(verb: str) -> MisuseError:
    """What a verb with an empty target is."""
    return MisuseError("PC-RUN-EMPTY-TARGET", f"{verb}: its target is empty")
