"""The syntax tree of a block, and the sources of chains. Frozen data, with the place of every node in the text.

``Expression`` is what stands as an argument or a right side; ``Statement`` is what ends as Ok, Err or a control.
"""

from __future__ import annotations

from common.chain.errors import NOWHERE, Span, node

# -- expressions -------------------------------------------------------------------------------------------------------


@node
class Literal:
    """``true``, ``false``, ``null`` or a number. ``spelling`` is what stands in the text and serves where text is
    wanted (``1.50`` stays ``1.50``).
    """

    value: bool | int | float | None
    spelling: str
    span: Span = NOWHERE


@node
class Text:
    """A string without parts: quoted, or a bare word (``bare``)."""

    value: str
    bare: bool = False
    span: Span = NOWHERE


@node
class Interpolated:
    """A double-quoted string with at least one ``${...}`` or ``$(...)``; its value is always a String."""

    parts: tuple[Text | Variable | Substitution, ...]
    span: Span = NOWHERE


@node
class Step:
    """One step of a path: ``.seg``, ``[index]``, or with ``?`` in front (``optional``).

    ``key`` is a Text (``.seg`` and quoted index), an integer Literal, or a Variable (which may have steps of its own).
    """

    key: Text | Literal | Variable
    optional: bool = False
    span: Span = NOWHERE


@node
class Variable:
    """``$NAME{step}`` or ``${NAME{step} ?? default}``. Also the target of an assignment, and a *ref* argument."""

    name: str
    steps: tuple[Step, ...] = ()
    default: Expression | None = None
    span: Span = NOWHERE


@node
class Substitution:
    """``$( and_or )``: the value of a statement."""

    body: Statement
    span: Span = NOWHERE


@node
class ListLiteral:
    """``[a, b]``; every evaluation makes a fresh list."""

    items: tuple[Expression, ...]
    span: Span = NOWHERE


@node
class MapLiteral:
    """``{key: v, "key": v}``; keys are unique; every evaluation makes a fresh map."""

    entries: tuple[tuple[Text, Expression], ...]
    span: Span = NOWHERE


@node
class Option:
    """An unquoted ``--name``, ``--name=value`` or ``-x`` among the arguments of a command, as written.

    ``name`` is without dashes, ``spelling`` with them. Whether ``--name value`` takes the next argument, and whether
    ``-x`` is a short form at all (else it is the word ``-x``), is for the command's spec: ``commands/bind.py``.
    """

    name: str
    spelling: str
    value: Expression | None = None
    span: Span = NOWHERE


Expression = Literal | Text | Interpolated | Variable | Substitution | ListLiteral | MapLiteral
Argument = Expression | Option

# -- statements --------------------------------------------------------------------------------------------------------


@node
class Command:
    """``NAME {arg | option}``: controls, verbs, commands of the language and of the host alike."""

    name: str
    arguments: tuple[Argument, ...] = ()
    span: Span = NOWHERE
    name_span: Span = NOWHERE


@node
class Assignment:
    """``[scope] target = value``, or ``scope NAME`` (``value`` None).

    ``scope`` is "" or one of ``global``, ``chain``, ``block`` (``export`` is global, ``local`` is block).
    """

    scope: str
    target: Variable
    value: Expression | None
    span: Span = NOWHERE


@node
class Comparison:
    """``left operator right``; operator is one of ``== != === !== < <= > >=``."""

    operator: str
    left: Expression
    right: Expression
    span: Span = NOWHERE


@node
class Condition:
    """A variable, or the word ``true`` or ``false``, that stands as a statement; its truth is L3's."""

    value: Variable | Literal
    span: Span = NOWHERE


@node
class Not:
    """``! operand``."""

    operand: Statement
    span: Span = NOWHERE


@node
class And:
    """``a && b && c``; at least two operands."""

    operands: tuple[Statement, ...]
    span: Span = NOWHERE


@node
class Or:
    """``a || b || c``; at least two operands; binds weaker than And."""

    operands: tuple[Statement, ...]
    span: Span = NOWHERE


@node
class Group:
    """``( and_or )``. Kept apart for the formatter; it means what its body means."""

    body: Statement
    span: Span = NOWHERE


@node
class Branch:
    """``if``/``elif``/``when`` condition ``then`` body."""

    condition: Statement
    body: Body
    span: Span = NOWHERE


@node
class If:
    """``if ... then ... elif ... else ... end``."""

    branches: tuple[Branch, ...]
    otherwise: Body | None = None
    span: Span = NOWHERE


@node
class Case:
    """``case [subject as name] then when ... end``. ``name`` is "" without a subject."""

    subject: Expression | None
    name: str
    branches: tuple[Branch, ...]
    otherwise: Body | None = None
    span: Span = NOWHERE


@node
class For:
    """``for name [, name] in collection then ... end``."""

    names: tuple[str, ...]
    collection: Expression
    body: Body
    span: Span = NOWHERE


@node
class MatchResult:
    """``match-result $(command) ok(name) ... err(name) ... end``; each branch at most once, at least one."""

    command: Statement
    ok_name: str = ""
    ok: Body | None = None
    err_name: str = ""
    err: Body | None = None
    span: Span = NOWHERE


Statement = (
    Command | Assignment | Comparison | Condition | Not | And | Or | Group | If | Case | For | MatchResult
)  # fmt: skip


@node
class Body:
    """Statements in order: a block, or what stands between two keywords."""

    statements: tuple[Statement, ...]
    span: Span = NOWHERE


# -- sources -----------------------------------------------------------------------------------------------------------


@node
class BlockSource:
    """A block as loaded. ``run`` is None where the source does not say it (then it runs); ``line`` is where its text
    begins in ``file``, 1 when unknown.
    """

    id: str
    text: str
    priority: int = 1
    run: bool | None = None
    line: int = 1


@node
class ChainSource:
    """A chain as loaded: blocks with unique ids, run by (priority, position)."""

    id: str
    blocks: tuple[BlockSource, ...]
    priority: int = 1
    run: bool | None = None


@node
class LibSource:
    """A list of chains with unique ids, run by (priority, position): what is mounted, or one global chain."""

    id: str
    chains: tuple[ChainSource, ...]
    file: str = ""
