"""The pages about the language: their chains load, their cases hold, their tables are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from common.chain.casefile import run_cases
from common.chain.chainfile import global_chains, hook_points
from common.chain.errors import ChainErrors
from common.chain.hookpoint import Engine, HookPoint
from common.chain.lint import Severity, lint
from common.chain.loader import load_yaml
from common.chain.nodes import BlockSource, ChainSource, LibSource
from common.chain.parser import BLOCK_BYTES_MAX, BRANCHES_MAX, STATEMENTS_NESTED_MAX
from common.chain.parser_arguments import BRACKETS_MAX
from common.chain.run import Budgets
from common.rulechains import RULE_INPUTS, VERBS, commands
from tests.docs_support.blocks import ROOT, Block, blocks, of_language, tables

TUTORIAL, LANGUAGE = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "language.md"
CHAPTERS = 10
CHAINS = of_language("chain", "chains")
CODE = re.compile(r"PC-[A-Z]+(?:-[A-Z]+)+")
WORD = re.compile(r"[A-Z]{3,}(?:-[A-Z]+)*")


def yaml_of(block: Block) -> str:
    """A block of the documentation as a file of chains."""
    if block.language == "chains":
        return block.text
    return str(yaml.safe_dump({"main": {"main": {"blocks": {"main": {"block": block.text}}}}}))


def chapters() -> list[tuple[Block, Block]]:
    """The chain and the cases of each chapter of the tutorial, and the head of the cases at the end."""
    found = [block for block in blocks(TUTORIAL) if block.language in ("chain", "chains", "cases")]
    return list(zip(found[:-1:2], found[1:-1:2], strict=True))


HEAD = next(block.text for block in reversed(blocks(TUTORIAL)) if block.language == "cases")


def test_the_tutorial_has_ten_chapters() -> None:
    """Ten chains, each with its cases behind it."""
    assert len(chapters()) == CHAPTERS
    assert all(cases.language == "cases" != chain.language for chain, cases in chapters())
    assert [line for line in TUTORIAL.read_text().splitlines() if line.startswith("## ")][-2].startswith("## 10.")


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter[0].id)
def test_cases_of_the_tutorial_hold(chapter: tuple[Block, Block], tmp_path: Path) -> None:
    """Each chapter's chain does with each input what the page says, with the commands that rules have."""
    chain, cases = chapter
    (tmp_path / "chains.yaml").write_text(yaml_of(chain))
    (tmp_path / "cases.yaml").write_text(HEAD + cases.text)
    results = run_cases(tmp_path / "cases.yaml", commands=commands())
    assert len(results) >= 2
    assert {result.name: result.differences for result in results if not result.passed} == {}


@pytest.mark.parametrize("block", CHAINS, ids=lambda block: block.id)
def test_chains_of_the_documentation_load(block: Block) -> None:
    """Every chain that a page shows can be mounted, and lint has no error and no warning to tell."""
    libs = load_yaml(yaml_of(block))
    points = hook_points(libs, commands())
    for name in points:
        engine = Engine(commands(), libs=global_chains(libs, points))
        HookPoint(name, engine=engine).mount(libs[name])
        assert [str(found) for found in lint([libs[name]], engine=engine) if found.severity is not Severity.INFO] == []


def test_the_error_of_the_reference_is_what_is_said() -> None:
    """The error that the page shows is, to the letter, that of its line."""
    (shown,) = (block.text for block in blocks(LANGUAGE) if block.text.startswith("PC-"))
    line = next(line for line in shown.splitlines() if line.startswith("  | "))
    block = BlockSource("check", line.removeprefix("  | "))
    with pytest.raises(ChainErrors) as caught:
        HookPoint("main").mount(LibSource("main", (ChainSource("gate", (block,)),)))
    assert f"{caught.value}\n" == shown


def test_budgets_are_those_of_the_code() -> None:
    """The table of budgets has every budget with its default, and the text the limits of a text."""
    rows = {row[0].strip("`"): row[1] for row in tables(LANGUAGE) if row[0].endswith("_max`")}
    defaults = Budgets()
    assert {name: int(value.replace(",", "")) for name, value in rows.items()} == {
        budget.name: getattr(defaults, budget.name) for budget in fields(Budgets)
    }
    text = " ".join(LANGUAGE.read_text().split())
    for limit in (
        f"{BLOCK_BYTES_MAX // 1024} KiB a block",
        f"{STATEMENTS_NESTED_MAX} nested statements",
        f"{BRANCHES_MAX} branches",
        f"{BRACKETS_MAX} nested brackets",
    ):
        assert limit in text


def test_the_hook_point_of_a_rule_is_that_of_the_code() -> None:
    """Inputs and verbs of a rule are listed as the code declares them."""
    rows = {row[0]: row[1] for row in tables(LANGUAGE) if row[0] in ("inputs", "verbs")}
    assert re.findall(r"\$([A-Z]+)", rows["inputs"]) == list(RULE_INPUTS)
    assert re.findall(r"`([a-z]+)`", rows["verbs"]) == list(VERBS)


def test_all_error_codes_are_listed() -> None:
    """The tables of codes have exactly the codes that the code can raise, each once."""
    listed = [row[0].strip("`") for row in tables(LANGUAGE) if CODE.fullmatch(row[0].strip("`"))]
    files = [*(ROOT / "common" / "chain").rglob("*.py"), ROOT / "common" / "cli" / "chainfiles.py"]
    raised = {code for file in files for code in _codes(file)}
    assert len(listed) == len(set(listed))
    assert set(listed) == raised


def _codes(file: Path) -> Iterator[str]:
    """Codes that a file names: whole ones, and the words that ``fail`` and lint_cyfs put behind their prefix."""
    cyfs = file.name == "lint_cyfs.py"
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if CODE.fullmatch(node.value):
                yield node.value
            elif cyfs and WORD.fullmatch(node.value):
                yield f"PC-LINT-CYFS-{node.value}"
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "fail" and node.args:
            for part in ast.walk(node.args[0]):
                word = getattr(part, "value", "")
                if isinstance(word, str) and WORD.fullmatch(word) and not word.startswith("PC-"):
                    yield f"PC-LINK-{word}"
