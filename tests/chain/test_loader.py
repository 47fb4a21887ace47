"""Loading chains from YAML, JSON and the engine's XML (L13)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.chain.errors import ChainErrors
from common.chain.loader import BLOCKS_MAX, ERRORS_MAX, TEXT_BYTES_MAX, load_file, load_json, load_yaml, single
from common.chain.nodes import BlockSource, ChainSource, LibSource
from tests.chain.xml_loader import load_xml

TWO_POINTS = """\
pre_req:
  guard:
    priority: -5
    blocks:
      check: {run: false, priority: 3, block: "reject"}
main:
  route:
    run: false
    blocks:
      first:
        block: |
          # a comment
          accept
      second:
        run: true
        block: forward "x"
  last:
    blocks: {only: {block: 'exec first'}}
"""


def errors(text: str) -> str:
    """All errors of a YAML text, as people see them."""
    with pytest.raises(ChainErrors) as caught:
        load_yaml(text, file="rules.yaml")
    return str(caught.value)


def test_yaml() -> None:
    """Hook points, chains and blocks in their order, with priorities, run, and the line where a text begins."""
    first = BlockSource("first", "# a comment\naccept\n", line=12)
    second = BlockSource("second", 'forward "x"', run=True, line=16)
    check = BlockSource("check", "reject", 3, False, 5)
    route = ChainSource("route", (first, second), run=False)
    last = ChainSource("last", (BlockSource("only", "exec first", line=18),))
    assert load_yaml(TWO_POINTS, file="rules.yaml") == {
        "pre_req": LibSource("pre_req", (ChainSource("guard", (check,), -5),), "rules.yaml"),
        "main": LibSource("main", (route, last), "rules.yaml"),
    }


def test_lines_are_those_of_the_file() -> None:
    """Line n of a block's text is line ``line + n - 1`` of the file."""
    lines = TWO_POINTS.split("\n")
    for lib in load_yaml(TWO_POINTS).values():
        for chain in lib.chains:
            for block in chain.blocks:
                for number, line in enumerate(block.text.rstrip("\n").split("\n")):
                    assert line in lines[block.line + number - 1]


def test_json_is_the_same() -> None:
    """A JSON text gives what its YAML gives, but for lines; characters beyond 16 bits included."""
    document = {"main": {"c": {"priority": 2, "blocks": {"b": {"run": False, "block": "echo '\U0001f600'\n"}}}}}
    block = BlockSource("b", "echo '\U0001f600'\n", run=False)
    assert load_json(json.dumps(document)) == {"main": LibSource("main", (ChainSource("c", (block,), 2),))}
    assert load_yaml(json.dumps(document, ensure_ascii=False))["main"].chains[0].blocks[0].text == block.text


def test_chains_without_a_hook_point() -> None:
    """A document that begins with chains is the list of one hook point."""
    text = "a: {blocks: {x: {block: accept}}}\nb: {blocks: {y: {block: drop}}}"
    lib = load_yaml(text)["main"]
    assert [chain.id for chain in lib.chains] == ["a", "b"]
    assert list(load_yaml(text, hook_point="pre")) == ["pre"]


def test_single() -> None:
    """One text is a list of one chain of one block."""
    assert single("accept", "x") == LibSource("x", (ChainSource("x", (BlockSource("x", "accept"),)),))


def test_all_errors_at_once() -> None:
    """Everything wrong with a document is said, each with file, place and line."""
    text = """\
main:
  a:
    priority: high
    blocks:
      x: {block: "  "}
      x: {block: accept}
      y: {text: accept}
      z: {block: accept, run: maybe}
      "b c": {block: accept}
      n: {block: 5}
  b: {blocks: {}}
  c: []
  d: {chains: {}}
empty: {}
"""
    assert [line for line in errors(text).split("\n") if line.startswith("PC-")] == [
        'PC-PARSE-EMPTY: the block "x" has no text in "block"',
        'PC-PARSE-DUPLICATE: "x" stands twice, first in line 5',
        'PC-PARSE-SHAPE: "text" is unknown in the block "y", known are priority, run, block',
        'PC-PARSE-EMPTY: the block "y" has no text in "block"',
        'PC-PARSE-SHAPE: "run" is true or false',
        'PC-PARSE-ID: "b c" is no id: letters, digits and "_ . / @ -", a letter, digit or "_" first',
        'PC-PARSE-SHAPE: "block" is the text of the block',
        'PC-PARSE-SHAPE: "priority" is a whole number',
        'PC-PARSE-EMPTY: the chain "b" has no blocks',
        'PC-PARSE-EMPTY: the chain "c" has no blocks',
        'PC-PARSE-SHAPE: "chains" is unknown in the chain "d", known are priority, run, blocks',
        'PC-PARSE-EMPTY: the chain "d" has no blocks',
        'PC-PARSE-EMPTY: the hook point "empty" has no chains',
    ]


def test_an_error_shows_its_line() -> None:
    """An error names file and place, and shows the line of the file."""
    assert errors("main:\n  a:\n    blocks:\n      x: {block: 5}\n") == (
        'PC-PARSE-SHAPE: "block" is the text of the block\n'
        "  at rules.yaml, main:a:x, line 4, column 7\n"
        "  |       x: {block: 5}\n"
        "  |       ^^^^^^^^^^^^^"
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "PC-PARSE-YAML"),
        ("a: b: c", "PC-PARSE-YAML"),
        ("\0", "PC-PARSE-YAML"),
        ("a: &x [*x]", "PC-PARSE-EMPTY"),
        ("[" * 1_000_000, "PC-PARSE-YAML"),
        ("", "PC-PARSE-SHAPE"),
        ("just text", "PC-PARSE-SHAPE"),
        ("[]", "PC-PARSE-EMPTY"),
        ("{}", "PC-PARSE-EMPTY"),
        ("a: {b: {blocks: {? [x] : {block: y}}}}", "PC-PARSE-SHAPE"),
        ("x" * 5_000_000, "PC-PARSE-SIZE"),
    ],
)
def test_what_is_no_document(text: str, code: str) -> None:
    """What is no YAML, or no map of chains, is one clear error, deep nesting included."""
    with pytest.raises(ChainErrors) as caught:
        load_yaml(text)
    assert caught.value.errors[0].code == code


def test_a_file_that_is_too_large_or_all_wrong_says_from_where_on() -> None:
    """The line with the first byte that is too much, counted in bytes; and the line of the fiftieth error."""
    with pytest.raises(ChainErrors) as caught:
        load_yaml("#\n" + "#" + "é" * (TEXT_BYTES_MAX // 2))
    assert [(error.code, error.span.line) for error in caught.value.errors] == [("PC-PARSE-SIZE", 2)]
    with pytest.raises(ChainErrors) as caught:
        load_yaml("a:\n" + "".join(f"  c{at}: 1\n" for at in range(100)))
    assert len(caught.value.errors) == ERRORS_MAX + 1
    assert (caught.value.errors[-1].code, caught.value.errors[-1].span.line) == ("PC-PARSE-MANY", ERRORS_MAX + 1)


@pytest.mark.parametrize(
    "text", ["{", "[1,]", "[" * 100_000, '{"a": {"b": {"blocks": {}, "blocks": {}}}}', "1", '{"a":1}']
)
def test_what_is_no_json_document(text: str) -> None:
    """The same for JSON; a key that stands twice is seen."""
    with pytest.raises(ChainErrors):
        load_json(text)


def test_aliases_cannot_blow_up() -> None:
    """Aliases that would make more than 10,000 blocks end in an error, at once."""
    blocks = ", ".join(f"b{n}: *x" for n in range(500))
    chains = ", ".join(f"c{n}: *c" for n in range(500))
    text = f"a: {{k: &c {{blocks: &b {{z: &x {{block: accept}}, {blocks}}}}}, {chains}}}"
    with pytest.raises(ChainErrors) as caught:
        load_yaml(text)
    assert caught.value.errors[-1].message == f"more than {BLOCKS_MAX} blocks"


def test_files(tmp_path: Path) -> None:
    """A file is read by its ending; one that cannot be read is an error with its name."""
    (tmp_path / "a.yaml").write_text(TWO_POINTS)
    (tmp_path / "a.json").write_text('\ufeff{"main": {"c": {"blocks": {"b": {"block": "accept"}}}}}')
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xff")
    assert list(load_file(tmp_path / "a.yaml")) == ["pre_req", "main"]
    assert load_file(str(tmp_path / "a.json"))["main"].file == str(tmp_path / "a.json")
    for name in ("bad.yaml", "none.yaml"):
        with pytest.raises(ChainErrors, match=name):
            load_file(tmp_path / name)


def test_xml() -> None:
    """The engine's form: chains and blocks in their order, priority 0 when none is given."""
    text = """<root><process_chain id="a" priority="3"><block id="x"><![CDATA[ accept && b ]]></block></process_chain>
    <process_chain id="b"><block id="y">drop;</block><block id="z">accept</block></process_chain></root>"""
    lib = load_xml(text)
    assert [(chain.id, chain.priority, [block.text for block in chain.blocks]) for chain in lib.chains] == [
        ("a", 3, [" accept && b "]),
        ("b", 0, ["drop;", "accept"]),
    ]
    for wrong in ("<process_chain id='a'/>", "<process_chain id='a'><block id='x'> </block></process_chain>"):
        with pytest.raises(ValueError, match=r"no blocks|is empty"):
            load_xml(wrong)
