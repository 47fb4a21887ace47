"""Python code as ``ast`` nodes, in few words: what the compiler builds blocks from (L11).

The text of a chain never becomes Python source: names are nodes, texts are constants. Python wants a place for every
node, so the classes here carry one; only what can raise and statements are given their real place, which is how an
error finds back to line and column of the block.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from common.chain.errors import NOWHERE, Span

NODES_SHARED_MAX = 1024
LOAD, STORE = ast.Load(), ast.Store()
EQ, NOT_EQ, IS, IS_NOT, IN = ast.Eq(), ast.NotEq(), ast.Is(), ast.IsNot(), ast.In()
LT, LT_E, GT, GT_E = ast.Lt(), ast.LtE(), ast.Gt(), ast.GtE()
_IS_OPS, _IS_NOT_OPS = [IS], [IS_NOT]
_NOT, _AND, _OR, _ADD, _SUB = ast.Not(), ast.And(), ast.Or(), ast.Add(), ast.Sub()


def _placed(base: type[Any]) -> type[Any]:
    """A node class with a place of its own as default, under its own name (``ast.unparse`` goes by it).

    Its fields are slots: a node without a real place needs no dictionary.
    """
    slots = tuple(field for field in base._fields if not hasattr(base, field))  # those that may be left out stay so
    place = {"lineno": 1, "col_offset": 0, "end_lineno": None, "end_col_offset": None}
    return type(base.__name__, (base,), {"__slots__": slots, **place})


_Name, _Attribute, _Call, _Subscript = (
    _placed(ast.Name),
    _placed(ast.Attribute),
    _placed(ast.Call),
    _placed(ast.Subscript),
)
_Compare, _BoolOp, _UnaryOp, _BinOp = (
    _placed(ast.Compare),
    _placed(ast.BoolOp),
    _placed(ast.UnaryOp),
    _placed(ast.BinOp),
)
_IfExp, _NamedExpr, _Tuple, _List = _placed(ast.IfExp), _placed(ast.NamedExpr), _placed(ast.Tuple), _placed(ast.List)
_Dict, _JoinedStr, _FormattedValue = _placed(ast.Dict), _placed(ast.JoinedStr), _placed(ast.FormattedValue)
_Slice = _placed(ast.Slice)
_Assign, _Expr, _If, _For, _Return = (
    _placed(ast.Assign), _placed(ast.Expr), _placed(ast.If), _placed(ast.For), _placed(ast.Return),
)  # fmt: skip
_Break, _Continue, _Pass, _FunctionDef = (
    _placed(ast.Break), _placed(ast.Continue), _placed(ast.Pass), _placed(ast.FunctionDef),
)  # fmt: skip


class _PlacedConstant(ast.Constant):
    __slots__ = ("value",)
    lineno, col_offset, end_lineno, end_col_offset, kind = 1, 0, None, None, None


_PlacedConstant.__name__ = "Constant"


def place(node: Any, span: Span) -> Any:
    """Give a node its real place; the same node comes back. Columns count from 0 here."""
    if span is not NOWHERE and span.line:
        node.lineno, node.col_offset = span.line, span.column - 1
        node.end_lineno, node.end_col_offset = span.end_line, span.end_column - 1
    return node


# -- expressions -------------------------------------------------------------------------------------------------------


@lru_cache(NODES_SHARED_MAX)
def name(id: str) -> Any:
    """A variable or global that is read. Its node is shared: nothing ever changes one."""
    return _Name(id, LOAD)


@lru_cache(NODES_SHARED_MAX)
def _target(id: str) -> Any:
    """A variable that is written; shared, too."""
    return _Name(id, STORE)


def const(value: Any) -> Any:
    """A constant: text, number, Bool, None, or a tuple of them."""
    if type(value) is tuple:
        return _PlacedConstant(value)  # type: ignore[arg-type] # a tuple of constants is one, too
    return _scalar(value)


@lru_cache(NODES_SHARED_MAX, typed=True)
def _scalar(value: Any) -> Any:
    """A shared node of a constant; ``typed``, because 1, 1.0 and True are equal."""
    return _PlacedConstant(value)


def is_const(node: Any) -> bool:
    """True for a constant."""
    return isinstance(node, ast.Constant)


def is_name(node: Any) -> bool:
    """True for a variable."""
    return isinstance(node, ast.Name)


def is_atom(node: Any) -> bool:
    """True for what may stand twice: a name or a constant."""
    return isinstance(node, ast.Constant | ast.Name)


def attr(value: Any, attribute: str) -> Any:
    """``value.attribute``."""
    return _Attribute(value, attribute, LOAD)


def call(function: Any, args: Sequence[Any], span: Span = NOWHERE, keywords: Sequence[Any] = ()) -> Any:
    """``function(*args)``; a text names a helper."""
    function = name(function) if isinstance(function, str) else function
    node = _Call(function, list(args), list(keywords))
    if span is NOWHERE:
        return node
    if isinstance(function, ast.Attribute):  # Python gives the call of a method the line in which its name ends
        place(function, Span(span.line, span.column, span.line, span.column))
    return place(node, span)


def keyword(key: str, value: Any) -> Any:
    """One keyword argument."""
    return ast.keyword(arg=key, value=value, lineno=1, col_offset=0)


def item(value: Any, key: Any) -> Any:
    """``value[key]``."""
    return _Subscript(value, key, LOAD)


def rest(value: Any, start: Any, stop: Any = None) -> Any:
    """``value[start:stop]``."""
    return _Subscript(value, _Slice(start, stop, None), LOAD)


def compare(left: Any, op: Any, right: Any) -> Any:
    """``left op right``."""
    return _Compare(left, [op], [right])


def class_is(value: Any, cls: str) -> Any:
    """``value.__class__ is cls``."""
    return _Compare(_Attribute(value, "__class__", LOAD), _IS_OPS, [name(cls)])


def classes_are(left: Any, right: Any, cls: str) -> Any:
    """``left.__class__ is right.__class__ is cls``: both are evaluated, whatever they are."""
    others = [_Attribute(right, "__class__", LOAD), name(cls)]
    return _Compare(_Attribute(left, "__class__", LOAD), [IS, IS], others)


def class_is_not(value: Any, cls: str) -> Any:
    """``value.__class__ is not cls``."""
    return _Compare(_Attribute(value, "__class__", LOAD), _IS_NOT_OPS, [name(cls)])


def negate(node: Any) -> Any:
    """``not node``, without a double negation or one of a single comparison."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    if isinstance(node, ast.Constant):
        return const(not node.value)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        opposite = {ast.Eq: NOT_EQ, ast.NotEq: EQ, ast.Is: IS_NOT, ast.IsNot: IS}.get(type(node.ops[0]))
        if opposite is not None:
            return _Compare(node.left, [opposite], node.comparators)
    return _UnaryOp(_NOT, node)


def both(*nodes: Any) -> Any:
    """``a and b``."""
    return _BoolOp(_AND, list(nodes))


def either(*nodes: Any) -> Any:
    """``a or b``."""
    return _BoolOp(_OR, list(nodes))


def add(left: Any, right: Any) -> Any:
    """``left + right``."""
    return _BinOp(left, _ADD, right)


def subtract(left: Any, right: Any) -> Any:
    """``left - right``."""
    return _BinOp(left, _SUB, right)


def choose(test: Any, then: Any, otherwise: Any) -> Any:
    """``then if test else otherwise``."""
    return _IfExp(test, then, otherwise)


def bind(id: str, value: Any) -> Any:
    """``(id := value)``."""
    return _NamedExpr(_target(id), value)


def tuple_(items: Sequence[Any]) -> Any:
    """A tuple."""
    return _Tuple(list(items), LOAD)


def list_(items: Sequence[Any]) -> Any:
    """A list."""
    return _List(list(items), LOAD)


def dict_(keys: Sequence[Any], values: Sequence[Any]) -> Any:
    """A dict."""
    return _Dict(list(keys), list(values))


def joined(parts: Sequence[Any]) -> Any:
    """Texts one after the other; every part must be a str."""
    merged: list[Any] = []
    for part in parts:
        if is_const(part) and merged and is_const(merged[-1]):
            merged[-1] = const(merged[-1].value + part.value)
        elif not (is_const(part) and part.value == ""):
            merged.append(part)
    if all(is_const(part) for part in merged):
        return const("".join(part.value for part in merged))
    if len(merged) == 1:
        return merged[0]
    return _JoinedStr([part if is_const(part) else _FormattedValue(part, -1) for part in merged])


# -- statements --------------------------------------------------------------------------------------------------------


def assign(id: str, value: Any) -> Any:
    """``id = value``."""
    return _Assign([_target(id)], value)


def assign_item(container: Any, key: Any, value: Any) -> Any:
    """``container[key] = value``."""
    return _Assign([_Subscript(container, key, STORE)], value)


def assign_attr(value_of: Any, attribute: str, value: Any) -> Any:
    """``value_of.attribute = value``."""
    return _Assign([_Attribute(value_of, attribute, STORE)], value)


def expr(value: Any) -> Any:
    """An expression as a statement."""
    return _Expr(value)


def if_(test: Any, then: Sequence[Any], otherwise: Sequence[Any] = ()) -> Any:
    """``if test: then else: otherwise``; the lists are taken as they are, so that they may be filled later."""
    return _If(test, then, otherwise if isinstance(otherwise, list) else list(otherwise))


def for_(targets: Sequence[str], iterable: Any, body: list[Any]) -> Any:
    """``for targets in iterable: body``."""
    names = [_target(id) for id in targets]
    return _For(names[0] if len(names) == 1 else _Tuple(names, STORE), iterable, body, [], None)


def return_(value: Any) -> Any:
    """``return value``."""
    return _Return(value)


def break_() -> Any:
    """``break``."""
    return _Break()


def continue_() -> Any:
    """``continue``."""
    return _Continue()


def pass_() -> Any:
    """``pass``."""
    return _Pass()


def function(id: str, parameters: Sequence[str], body: list[Any]) -> Any:
    """``def id(parameters): body``."""
    args = [ast.arg(parameter, None, lineno=1, col_offset=0) for parameter in parameters]
    return _FunctionDef(id, ast.arguments([], args, None, [], [], None, []), body, [], None)
