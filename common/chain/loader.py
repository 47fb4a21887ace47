"""YAML and JSON -> the sources of chains, with the lines of the file (L13).

    hook_point:
      chain:
        priority: 1                  # the default; chains and blocks run by (priority, position)
        run: true                    # false: callable only
        blocks:
          block:
            block: |
              the block's text

A document whose top level has ``blocks`` one step below is the chains of one hook point. All that is wrong with a
document is raised at once, as ``ChainErrors``; the text of the blocks is the parser's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from common.chain.errors import TOO_MUCH, ChainError, ChainErrors, Span
from common.chain.nodes import BlockSource, ChainSource, LibSource

TEXT_BYTES_MAX = 4 * 1024 * 1024
DEPTH_MAX = 16  # libyaml's composer recurses in C: deep nesting would end the process
BLOCKS_MAX = 10_000  # aliases followed
ERRORS_MAX = 50  # of one document: what is behind the last one is not looked at

_ID = re.compile(r"\w[\w./@-]*")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT, _BOOL, _NULL, _STR = (f"tag:yaml.org,2002:{name}" for name in ("int", "bool", "null", "str"))


class _Value(NamedTuple):
    """A value of the document. ``value`` of a map is a list of (key, its line, value)."""

    value: Any
    line: int  # 0 when unknown
    text_line: int = 1  # where the text of a scalar begins


def single(text: str, id: str = "main") -> LibSource:
    """Return the list of one chain of one block, all named ``id``, with this text."""
    return LibSource(id, (ChainSource(id, (BlockSource(id, text),)),))


def load_file(path: str | Path) -> dict[str, LibSource]:
    """Return the chains of a file: JSON if its name ends so, else YAML. Raises ChainErrors."""
    name = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise ChainErrors([ChainError("PC-PARSE-FILE", f"cannot read {name}: {exc.strerror}")]) from exc
    except UnicodeDecodeError as exc:
        raise ChainErrors([ChainError("PC-PARSE-FILE", f"{name} is no UTF-8 text")]) from exc
    return (load_json if name.endswith(".json") else load_yaml)(text, file=name)


def load_yaml(text: str, *, file: str = "", hook_point: str = "main") -> dict[str, LibSource]:
    """Return the list of chains of every hook point in a YAML text.

    ``file`` is remembered for messages. ``hook_point`` is the name for the chains of a document that names none.
    Raises ChainErrors with all findings, each with its line.
    """
    _check_size(text, file)
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 0
        raise ChainErrors([_Document(text, file).error("PC-PARSE-YAML", f"no YAML: {exc.problem}", line)]) from exc
    except (yaml.YAMLError, UnicodeEncodeError) as exc:
        message = "no YAML: it holds a character that YAML does not allow"
        raise ChainErrors([_Document(text, file).error("PC-PARSE-YAML", message, 0)]) from exc
    return _Document(text, file).load(_from_yaml(root), hook_point)


def load_json(text: str, *, file: str = "", hook_point: str = "main") -> dict[str, LibSource]:
    """Return the list of chains of every hook point in a JSON text; as ``load_yaml``, without the lines of blocks."""
    _check_size(text, file)
    document = _Document(text, file)
    try:
        root = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as exc:
        raise ChainErrors([document.error("PC-PARSE-JSON", f"no JSON: {exc.msg}", exc.lineno)]) from exc
    except (RecursionError, ValueError) as exc:
        raise ChainErrors(
            [document.error("PC-PARSE-JSON", "no JSON: nested too deep, or a number too long", 0)]
        ) from exc
    return document.load(_from_json(root), hook_point)


class _Pairs(list[Any]):
    """A map of JSON with all its pairs, so that a key that stands twice is seen."""


def _check_size(text: str, file: str) -> None:
    data = text.encode(errors="surrogatepass")
    if len(data) > TEXT_BYTES_MAX:
        line = data.count(b"\n", 0, TEXT_BYTES_MAX) + 1
        message = f"a file has at most {TEXT_BYTES_MAX} bytes, this one has {len(data)}"
        raise ChainErrors([_Document(text, file).error("PC-PARSE-SIZE", message, line)])


def _check_depth(text: str) -> None:
    """Raise MarkedYAMLError for what is nested deeper than any document of chains."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEPTH_MAX}", problem_mark=mark)


def _from_yaml(node: Any) -> _Value:
    """The value of a node; the values of a map stay nodes."""
    if node is None:
        return _Value(None, 0)
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return _Value([(key.value, key.start_mark.line + 1, value) for key, value in node.value], line)
    if not isinstance(node, yaml.ScalarNode):
        return _Value([], line)
    below = line + 1 if node.style in ("|", ">") else line
    if node.tag == _STR:
        return _Value(node.value, line, below)
    if node.tag == _BOOL:
        return _Value(node.value.lower() in ("true", "yes", "on"), line)
    if node.tag == _INT and re.fullmatch(r"-?[0-9]{1,18}", node.value):
        return _Value(int(node.value), line)
    return _Value(None if node.tag == _NULL else node, line)


def _from_json(value: Any) -> _Value:
    if isinstance(value, _Pairs):
        return _Value([(key, 0, part) for key, part in value], 0)
    return _Value([] if isinstance(value, list) else value, 0)


class _Document:
    """One document, with what is found wrong in it."""

    def __init__(self, text: str, file: str) -> None:
        self._lines, self._file = text.split("\n"), file
        self._errors: list[ChainError] = []
        self._blocks = 0

    def error(self, code: str, message: str, line: int, where: str = "") -> ChainError:
        """An error in a line of the document, 0 when unknown."""
        source = self._lines[line - 1].rstrip("\r") if 0 < line <= len(self._lines) else ""
        begin = len(source) - len(source.lstrip()) + 1
        place = ", ".join(part for part in (self._file, where) if part)
        return ChainError(code, message, Span(line, begin, line, len(source) + 1), source=source, where=place)

    def load(self, root: _Value, hook_point: str) -> dict[str, LibSource]:
        """The lists of chains. Raises ChainErrors."""
        points = list(self._items(root, "the document", ""))
        if any(_is_chain(value) for _, _, value in points):
            points = [(hook_point, root.line, root)]
        libs = {name: self._lib(name, line, value) for name, line, value in points}
        if not libs and not self._errors:
            self._wrong("PC-PARSE-EMPTY", "the document has no chains", root.line)
        if self._errors:
            raise ChainErrors(self._errors)
        return libs

    def _wrong(self, code: str, message: str, line: int, where: str = "") -> None:
        self._errors.append(self.error(code, message, line, where))
        if len(self._errors) == ERRORS_MAX:
            self._errors.append(self.error("PC-PARSE-MANY", TOO_MUCH, line, where))
            raise ChainErrors(self._errors)

    def _items(self, node: Any, what: str, where: str) -> Iterator[tuple[str, int, _Value]]:
        """The keys of a map, each once."""
        map_ = _value(node)
        if not isinstance(map_.value, list):
            self._wrong("PC-PARSE-SHAPE", f"{what} is a map of names", map_.line, where)
            return
        seen: dict[str, int] = {}
        for key, line, value in map_.value:
            if not isinstance(key, str):
                self._wrong("PC-PARSE-SHAPE", "a key is plain text", line, where)
            elif key in seen:
                first = f", first in line {seen[key]}" if seen[key] else ""
                self._wrong("PC-PARSE-DUPLICATE", f'"{key}" stands twice{first}', line, where)
            else:
                seen[key] = line
                yield key, line, _value(value)

    def _lib(self, name: str, line: int, node: _Value) -> LibSource:
        chains = [self._chain(id, at, value, f"{name}:{id}") for id, at, value in self._named(node, f'"{name}"', name)]
        if not chains and isinstance(node.value, list):
            self._wrong("PC-PARSE-EMPTY", f'the hook point "{name}" has no chains', line, name)
        return LibSource(name, tuple(chains), self._file)

    def _named(self, node: Any, what: str, where: str) -> Iterable[tuple[str, int, _Value]]:
        """As ``_items``, where the keys are ids of chains or blocks."""
        for id, line, value in self._items(node, what, where):
            if _ID.fullmatch(id) is None:
                message = f'"{id}" is no id: letters, digits and "_ . / @ -", a letter, digit or "_" first'
                self._wrong("PC-PARSE-ID", message, line, where)
            yield id, line, value

    def _chain(self, id: str, line: int, node: _Value, where: str) -> ChainSource:
        fields = self._fields(node, ("priority", "run", "blocks"), f'the chain "{id}"', where)
        blocks = []
        if "blocks" in fields:
            named = self._named(fields["blocks"], '"blocks"', where)
            blocks = [self._block(name, at, value, f"{where}:{name}") for name, at, value in named]
        if not blocks and isinstance(node.value, list):
            self._wrong("PC-PARSE-EMPTY", f'the chain "{id}" has no blocks', line, where)
        return ChainSource(id, tuple(blocks), self._priority(fields, where), self._run(fields, where))

    def _block(self, id: str, line: int, node: _Value, where: str) -> BlockSource:
        self._blocks += 1
        if self._blocks > BLOCKS_MAX:
            self._wrong("PC-PARSE-SIZE", f"more than {BLOCKS_MAX} blocks", line, where)
            raise ChainErrors(self._errors)
        fields = self._fields(node, ("priority", "run", "block"), f'the block "{id}"', where)
        text = fields.get("block", _Value("", line))
        if not isinstance(text.value, str):
            self._wrong("PC-PARSE-SHAPE", '"block" is the text of the block', text.line or line, where)
        elif not text.value.strip() and isinstance(node.value, list):
            self._wrong("PC-PARSE-EMPTY", f'the block "{id}" has no text in "block"', text.line or line, where)
        value = text.value if isinstance(text.value, str) else ""
        return BlockSource(id, value, self._priority(fields, where), self._run(fields, where), text.text_line)

    def _fields(self, node: _Value, known: tuple[str, ...], what: str, where: str) -> dict[str, _Value]:
        fields = {}
        for key, line, value in self._items(node, what, where):
            if key in known:
                fields[key] = value
            else:
                self._wrong(
                    "PC-PARSE-SHAPE", f'"{key}" is unknown in {what}, known are {", ".join(known)}', line, where
                )
        return fields

    def _priority(self, fields: dict[str, _Value], where: str) -> int:
        field = fields.get("priority", _Value(1, 0))
        if isinstance(field.value, int) and not isinstance(field.value, bool):
            return field.value
        self._wrong("PC-PARSE-SHAPE", '"priority" is a whole number', field.line, where)
        return 1

    def _run(self, fields: dict[str, _Value], where: str) -> bool | None:
        field = fields.get("run", _Value(None, 0))
        if field.value is None or isinstance(field.value, bool):
            return field.value
        self._wrong("PC-PARSE-SHAPE", '"run" is true or false', field.line, where)
        return None


def _value(node: Any) -> _Value:
    """What a pair of a map holds, looked at when it is needed: aliases may make a document very large."""
    if isinstance(node, _Value):
        return node
    return _from_yaml(node) if isinstance(node, yaml.Node) else _from_json(node)


def _is_chain(value: _Value) -> bool:
    return isinstance(value.value, list) and any(key == "blocks" for key, _, _ in value.value)
