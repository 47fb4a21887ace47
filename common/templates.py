"""Templates in a rule's target: text with placeholders that each message fills (flow F3).

``{topic[n]}`` (or ``{path[n]}``) is level n of the message's key from 0, ``{node}``, ``{rule}`` and ``{namespace}`` are
the rule's, ``{$MSG.payload.line}`` is a field of the message: ``payload``, ``headers``, ``params``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote, unquote

from common.errors import TemplateError, TopicError
from common.masking import mask_urls
from common.topics import check_topic

KNOWN = ("node", "rule", "namespace")
FIELDS = ("payload", "headers", "params")
DEPTH_MAX = 16  # steps of a field

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_LEVEL = re.compile(r"(?:topic|path)\[(0|[1-9][0-9]{0,2})\]")
_FIELD = re.compile(r"\$MSG((?:\.[A-Za-z0-9_-]+)+)")

Field = Callable[[tuple[str, ...]], str | None]  # the text of a field of the message, None where it is missing


class Template:
    """A text with placeholders.

    ``levels`` tells how many levels a message's key must have, ``fields`` which fields of the message it reads.
    ``escape`` is applied to each filled-in value. Raises TemplateError for a placeholder that nobody knows.
    """

    def __init__(self, text: str, escape: Callable[[str], str] = str) -> None:
        self.text, self.levels, self._escape = text, 0, escape
        self._shown = mask_urls(text)  # in errors, which travel far
        self._parts: list[str | int | tuple[str, ...]] = []  # even: text; odd: a level, (known,), or a field's path
        at = 0
        for found in _PLACEHOLDER.finditer(text):
            self._parts += (self._literal(text[at : found.start()]), self._placeholder(found[1]))
            at = found.end()
        self._parts.append(self._literal(text[at:]))
        self.fields = tuple(p for p in self._parts[1::2] if isinstance(p, tuple) and p[0] in FIELDS)

    @property
    def example(self) -> str:
        """The text with ``x`` in every placeholder: what a check of the whole may look at."""
        return "".join("x" if place % 2 else str(part) for place, part in enumerate(self._parts))

    def render(self, key: str, known: Mapping[str, str], field: Field, *, path: bool = False) -> str:
        """Return the text for a message that came on ``key``: a topic, or an HTTP path as it came (``path``), whose
        levels are its decoded segments.

        Raises TemplateError when the key has too few levels, or a field is missing.
        """
        if len(self._parts) == 1:
            return self.text
        levels = [unquote(part) for part in key.strip("/").split("/")] if path else key.split("/")
        if len(levels) < self.levels:
            raise TemplateError(f"template {self._shown!r} needs {self.levels} levels, {key!r} has {len(levels)}")
        filled: list[str] = []
        for place, part in enumerate(self._parts):
            if not place % 2:
                filled.append(str(part))
            elif isinstance(part, int):
                filled.append(self._fill(levels[part], one=True))
            elif isinstance(part, tuple) and part[0] in FIELDS:
                value = field(part)
                if value is None:
                    raise TemplateError(f"template {self._shown!r}: the message has no {'.'.join(part)}")
                filled.append(self._fill(value, one=part[0] == "params"))
            else:
                filled.append(self._escape(known[part[0]]))
        return "".join(filled)

    def _fill(self, value: str, *, one: bool) -> str:
        """A value as it stands in the text; ``one``: it is one level of a topic, or one segment of a path."""
        return self._escape(value)

    def _literal(self, part: str) -> str:
        if "{" in part or "}" in part:
            raise TemplateError(f"template {self._shown!r}: a brace without its other one")
        return part

    def _placeholder(self, inside: str) -> int | tuple[str, ...]:
        if inside in KNOWN:
            return (inside,)
        if level := _LEVEL.fullmatch(inside):
            self.levels = max(self.levels, int(level[1]) + 1)
            return int(level[1])
        if field := _FIELD.fullmatch(inside):
            path = tuple(field[1].strip(".").split("."))
            if path[0] in FIELDS and 1 < len(path) <= DEPTH_MAX:
                return path
        raise TemplateError(
            f"template {self._shown!r}: unknown {{{inside}}}; there are {{topic[n]}}, {{path[n]}}, {{node}}, {{rule}}, "
            "{namespace}, {$MSG.payload.NAME}, {$MSG.headers.NAME}, {$MSG.params.NAME}"
        )


class TopicTemplate(Template):
    """A template of an MQTT topic. Raises TemplateError or TopicError for what can never be a topic."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        check_topic(self.example)

    def render(self, key: str, known: Mapping[str, str], field: Field, *, path: bool = False) -> str:
        """See Template. Raises TemplateError for a value that makes no topic (a wildcard, NUL), for a segment of a path
        that makes two levels, and for a topic that a value lets begin with ``$``: those command the broker.
        """
        topic = super().render(key, known, field, path=path)
        if self.fields or path:
            try:
                check_topic(topic)
            except TopicError as exc:
                raise TemplateError(f"template {self._shown!r}: {exc.detail}") from exc
            if topic.startswith("$") and not self.text.startswith("$"):
                raise TemplateError(f"template {self._shown!r}: a value makes a topic that begins with $")
        return topic

    def _fill(self, value: str, *, one: bool) -> str:
        if one and "/" in value:
            raise TemplateError(f"template {self._shown!r}: the segment {value[:100]!r} of a path would be two levels")
        return value


class UrlTemplate(Template):
    """A template of a URL or an HTTP path: what is filled in is percent-encoded and cannot change the structure."""

    def __init__(self, text: str) -> None:
        super().__init__(text, _quoted)

    def render(self, key: str, known: Mapping[str, str], field: Field, *, path: bool = False) -> str:
        """See Template. Raises TemplateError for a segment that would come to be ``.`` or ``..``: it names another
        path, however it is encoded.
        """
        url = super().render(key, known, field, path=path)
        for segment, written in zip(_segments(url), _segments(self.text), strict=False):
            if segment in (".", "..") and segment != written:
                raise TemplateError(f"template {self._shown!r}: a value makes the segment {segment!r}")
        return url


def _segments(url: str) -> list[str]:
    return url.partition("?")[0].split("/")


def _quoted(text: str) -> str:
    return quote(text, safe="")


def filter_levels(filter_: str) -> int:
    """How many levels every topic that matches the filter surely has: ``a/+/b`` 3, ``a/#`` 1, ``#`` 1."""
    levels = filter_.split("/")
    if levels[0] == "$share":
        levels = levels[2:]
    return max(1, len(levels) - (levels[-1:] == ["#"]))
