"""Random programs that load: a grammar over the whole language, drawn by hypothesis, written as text.

Few names, few ids and small values, so that scopes, aliases, jumps and calls meet each other often.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from common.chain import nodes as n
from tests.chain.program import Program

NAMES = ("a", "b", "c")
BLOCKS = ("one", "two")
CHAINS = ("first", "second")
GLOBAL = "util"
DEFAULT = '"d"'
TARGETS = (*BLOCKS, *CHAINS, GLOBAL, "first:one", "util:util:two")
GLOBAL_TARGETS = (*BLOCKS, GLOBAL, "util:util:two")
LITERALS = (
    "0", "1", "2", "-1", "1.50", "3.0", "true", "false", "null", "word", '"x"', '"1"', "''", '"a b"', "yes",
)  # fmt: skip
FIXED = {
    "L": LITERALS,
    "n": NAMES,
    "i": BLOCKS,
    "w": ("", "", "", "", "local ", "chain ", "global ", "export ", "block "),
    "l": ("", "", "--from block", "--from chain", "--from lib"),
    "f": ("a", "b", "a, b", "c, a"),
}
INPUTS = {
    "REQ": {"path": "/a/b", "n": 5, "tags": ["x", "y"], "m": {"k": "v", "t": True, "z": None, "f": 1.5}},
    "RESP": {"status": 200, "headers": {"k": "1"}, "tags": ["t"]},
}


STEPS = ("", "", "", ".k", ".m.k", ".tags", "[0]", '["k"]', "?.z", "[$a]", ".headers", ".m", ".path", "?[$b[0]]")

# Templates: <v> a value, <q> an operand of a comparison, <n> a variable's name, <p> a path, <r> a read of a variable,
# <o> an operand of and/or, <s> one without operators, <t> an id for exec, <g> one for goto, <h> a chain, <i> a block,
# <w> a scope word, <l> a level, <P> a predicate, <C> a command, <a> an assignment, <c> a control, <b> a body, <B> a
# body of a loop, <f> a loop's names.
VALUES = {
    "flat": ("<L>", "<L>", "<r>", "<r>"),
    "deep": (
        "<L>", "<L>", "<r>", "<r>", "<r>", '"<${<p>}>-"', '"${<p>}"', '"${<p>}$(<s>)"', "$(<o>)", "$(<s>)", "[]",
        "[<v>]", "[<v>, <v>]", "{}", "{k: <v>}", "{k: <v>, tags: <v>}", "$(<P> && <c>)",
    ),
}  # fmt: skip
PREDICATES = (
    "<q> == <q>", "<q> != <q>", "<q> === <q>", "<q> !== <q>", "<q> < <q>", "<q> >= <q>", "eq <v> <v>",
    "ne --loose <v> <v>", "gt <v> <v>", "starts-with <v> <v>", "is-null <v>", "is-number <v>", "oneof <v> <v> 1",
    "match-include <r> k", "$<p>", "true", "false", "eq 1 1", "eq 1 2", "chance 0.5", 'match <v> "*a*"',
)  # fmt: skip
COMMANDS = (
    "append <v> <v>", "append <v> <v>", "upper <v>", "strip-prefix <v> <v>", "parse-uri <v>", "to-number <v>",
    "len <r>", 'split <v> "/"', "echo <v>", "list-push <n> <v>", "list-push $<p> <v>", "list-pop <n>",
    "map-add <n> k <v>", "map-remove $<p> k", "list-set <n> 0 <v>", "set-create <n>", "set-add <n> x",
    "map-create <n>", "list-clear <n>", "delete <n>", "delete $<n>.k", "type <n>", "build-json <v>", "json-get <v> k",
    "choice <r>", 'split --capture <n> <v> "/"', 'replace $<n> "x" "y"',
    'match-path --capture-named <n> <v> "/{k}/**"', "match-reg --capture <n> <v> '(a)|(b)'", "lower <v>",
    "slice <v> 0:1", "strlen <v>", "trim <v>", "to-bool <v>", "to-string <v>", "parse-query <v>", 'query-get <v> "k"',
    "limit <v> 1 2", "list-insert <n> 0 <v>", "list-remove <n> <r>", "set-remove <n> x", 'rewrite $<n>.k "x*" "y*"',
    "list-push <n> <v> <v>", "range <v> 0 <r>", "is-bool <v>",
    "map --begin <v> --reduce $(append $__result $__value) <r> $(append $__key <v>)", "map <r> $(<s>)",
    "capture --value <n> --status <n> --ok <n> --error <n> $(<s>)", "exec --chain <h>",
    "invoke --block <i> --arg k <v>", "map-create --global <n>", "delete --global <n>",
    "append $__key $__value $__args.k", "ends-with -i <v> <v>", "set-create --block <n>", "exec <t>", "exec <t>",
    "invoke <t> --arg k <v>", "map <r> $(<s>)", "capture --value <n> --status <n> $(<o>)", "capture --ok <n> $(<s>)",
    "first-ok $(<s>) $(<P>)",
)  # fmt: skip
ASSIGNMENTS = (
    "<w><n> = <v>", "<w><n> = <v>", "<w><n> = <v>", "<w><n> = $(<s>)", "<n>.k = <v>", "$<n>[0] = <v>",
    "$<n>[$b] = <v>", "RESP.status = <v>", "RESP.headers.k = <v>", "RESP = <v>", "result = <v>", "error = <v>",
    "resp = <v>", "resp.k = <v>", "local <n>", "global <n>", "chain <n>",
    "chain RESP = <v>", "global RESP = {k: <v>}", "local RESP = <v>", "global REQ = <v>", "RESP.tags = $<n>",
)  # fmt: skip
CONTROLS = (
    "return <l> <v>", "error <l> <v>", "return <l>", "error <l>", "exit <v>", "exit", "accept", "reject <v>", "drop",
    "forward <v>", 'return "forward ${a}"', "return accept", "goto <g>", "goto <g>",
)  # fmt: skip
IN_LOOPS = (*CONTROLS, *("break <v>", "break", "continue") * 4)
OPERANDS = ("<s>", "<s>", "<s>", "<o> && <o>", "<o> || <o>", "! <s>", "(<o> || <s>)", "<s> && <s> || <s>")
STATEMENTS = (
    "<o>", "<o>", "<o>", "(<s>)", "<a>", "<a>", "<a>", "<P> && <c>", "<P> || <c>", "<c>",
    "if <o> then\n<b>\nelif <P> then\n<b>\nelse\n<b>\nend", "if <P> then\n<b>\nend",
    "for <f> in <v> then\n<B>\nend", "for <f> in <r> then\n<B>\nend",
    "case <v> as <n> then\nwhen <o> then\n<b>\nelse\n<b>\nend",
    "match-result $(<C>)\nok(<n>)\n<b>\nerr(<n>)\n<b>\nend",
)  # fmt: skip
BEGINNINGS = (
    "a = 1",
    'a = [1, "x", {k: "v"}]\nb = {k: $a, tags: ["t"]}\nc = "k"',
    'local a = {k: "1", tags: []}\nb = [1, $a]\nglobal c = $b',
    "a = $RESP.tags\nb = $REQ.m\nset-create c\nset-add c k",
)
FLAT_STATEMENTS = ("<s>", "<a>", "<P> && <c>", "<C>")
HOLE = re.compile("<([a-zA-Z])>")


class Writer:
    """Writes one program; ``one`` takes one of several options. ``depth`` bounds what is still to be written."""

    def __init__(self, one: Callable[[Sequence[Any]], Any]) -> None:
        self.one = one
        self.targets: Sequence[str] = TARGETS
        self._loops = 0

    def often(self, of: int) -> bool:
        """True once in ``of`` draws or so."""
        return bool(self.one(range(of)) == of - 1)

    def fill(self, templates: Sequence[str], depth: int) -> str:
        """One of the templates, with its holes filled."""
        return HOLE.sub(lambda hole: self.hole(hole[1], depth - 1), self.one(templates))

    def hole(self, kind: str, depth: int) -> str:
        """What fills one kind of hole."""
        if kind in FIXED:
            return str(self.one(FIXED[kind]))
        if kind in "tg":  # goto takes no id with colons
            return str(self.one([id for id in self.targets if kind == "t" or ":" not in id]))
        if kind == "h":
            return str(self.one([id for id in self.targets if id in (*CHAINS, GLOBAL)]))
        if kind in "pr":
            path = f"{self.one((*NAMES, *NAMES, *NAMES, 'REQ', 'RESP', 'resp', 'result'))}{self.one(STEPS)}"
            if kind == "r" and self.often(6):
                return f"${{{path} ?? {self.one(('7', 'null', '$c', DEFAULT))}}}"
            return path if kind == "p" else f"${path}"
        if kind in "vq":
            value = self.fill(VALUES["deep" if depth > 0 else "flat"], depth)
            return f'"{value}"' if kind == "q" and value in ("word", "yes") else value
        if kind in "bB":
            self._loops += kind == "B"
            body = self.body(depth)
            self._loops -= kind == "B"
            return body
        if kind == "c":
            return self.fill(IN_LOOPS if self._loops else CONTROLS, min(depth, 1))
        if kind == "o":
            return self.fill(OPERANDS if depth > 0 else ("<s>",), depth)
        simple = {"s": (*PREDICATES, *COMMANDS, *COMMANDS, *ASSIGNMENTS), "P": PREDICATES, "C": COMMANDS}
        return self.fill({**simple, "a": ASSIGNMENTS}[kind], depth)

    def body(self, depth: int) -> str:
        """One to three statements."""
        templates = STATEMENTS if depth > 0 else FLAT_STATEMENTS
        return "\n".join(self.fill(templates, depth) for _ in range(self.one((1, 2, 3))))

    # -- chains --------------------------------------------------------------------------------------------------------

    def chain(self, id: str) -> n.ChainSource:
        """A chain of two blocks; some are only callable."""
        runs = (None, None, None, False)
        texts = [f"{self.one(BEGINNINGS)}\n{self.body(3)}" for _ in BLOCKS]
        blocks = tuple(
            n.BlockSource(block, text, self.one((1, 1, 2)), self.one(runs))
            for block, text in zip(BLOCKS, texts, strict=True)
        )
        return n.ChainSource(id, blocks, self.one((1, 1, 2)), self.one(runs))


def program(one: Callable[[Sequence[Any]], Any]) -> Program:
    """A list of two chains and one global chain."""
    writer = Writer(one)
    main = n.LibSource("main", tuple(writer.chain(chain) for chain in CHAINS))
    writer.targets = GLOBAL_TARGETS
    util = n.LibSource(GLOBAL, (writer.chain(GLOBAL),))
    return Program(main, {GLOBAL: util}, INPUTS, ("RESP",), writer.often(8), one(range(4)))


@st.composite
def programs(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Program:
    """A program whose choices are hypothesis's, which then finds the smallest that fails."""
    return program(lambda options: draw(st.sampled_from(options)))


def of_seed(seed: int) -> Program:
    """A program whose choices are those of a seed: a hundred times faster to write, and not made smaller."""
    return program(random.Random(seed).choice)


def shown(program: Program) -> str:
    """The program as people read it."""
    lines = [f"strict={program.strict} seed={program.seed}"]
    for lib in (program.main, *program.libs.values()):
        for chain in lib.chains:
            for block in chain.blocks:
                lines.append(f"== {lib.id}:{chain.id}:{block.id} priority={block.priority} run={block.run}")
                lines.append(block.text)
    return "\n".join(lines)
