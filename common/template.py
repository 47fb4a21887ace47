"""Templates for target topics and paths: ``{topic[1]}``, ``{node}``, ``{rule}``, ``{namespace}`` (flow F3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from common.errors import TopicError

NAMES = ("node", "rule", "namespace")  # known when the rule is bound; topic levels only when a message comes
_PLACE = re.compile(r"\{([^{}]*)\}")
_LEVEL = re.compile(r"topic\[([0-9]{1,3})\]")


class Template(NamedTuple):
    """A parsed template: literal texts, level numbers (int), and names that are not known yet, in order."""

    parts: tuple[str | int, ...]
    names: tuple[int, ...] = ()  # which parts are names

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse ``text``. Raises TopicError that names the wrong placeholder and what there is."""
        parts: list[str | int] = []
        names: list[int] = []
        end = 0
        for place in _PLACE.finditer(text):
            parts.append(text[end : place.start()])
            end = place.end()
            level = _LEVEL.fullmatch(place[1])
            if level:
                parts.append(int(level[1]))
            elif place[1] in NAMES:
                names.append(len(parts))
                parts.append(place[1])
            else:
                known = "{topic[N]}, {node}, {rule}, {namespace}"
                raise TopicError(f"template {text!r}: {{{place[1]}}} is not one of {known}")
        parts.append(text[end:])
        if any("{" in part or "}" in part for part in parts if isinstance(part, str)):
            raise TopicError(f"template {text!r}: a brace is not closed")
        return cls(tuple(parts), tuple(names))

    @property
    def levels(self) -> int:
        """How many levels a source topic must have for this template."""
        return max((part + 1 for part in self.parts if isinstance(part, int)), default=0)

    def fixed(self, known: Mapping[str, str]) -> Template:
        """Put in the values that do not change from message to message; neighbouring texts are joined."""
        parts: list[str | int] = [""]
        for at, part in enumerate(self.parts):
            value = known[str(part)] if at in self.names else part
            if isinstance(value, str) and isinstance(parts[-1], str):
                parts[-1] += value
            else:
                parts.append(value)
        return Template(tuple(parts))

    def render(self, topic: str) -> str:
        """Return the text for a message that came on ``topic``. Raises TopicError when a level is missing."""
        if len(self.parts) == 1:
            return str(self.parts[0])
        levels = topic.split("/")
        try:
            return "".join([part if isinstance(part, str) else levels[part] for part in self.parts])
        except IndexError:
            raise TopicError(f"topic {topic!r} has {len(levels)} levels, the template needs {self.levels}") from None
