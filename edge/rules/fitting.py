"""Which of the cloud's objects can run together: the most that fit, and a finding for each that does not (P6.1).

Theory of operation. ``test`` says what is wrong with a set of objects. New ones are tried all together, which is one
test where all is well, however many there are. One that the test blames itself is left out. When it blames others, that
ran before, some new one breaks them: the new ones are halved until it is known which. What was left out is tried again
as long as something changed, for a rule may only have waited for its endpoint; and when it is not much, one by one, for
two that are wrong may hide that one of them alone is not. So no object keeps another from running, in whatever order
they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from common.rulesync import ObjectKey

BLAMED_MAX = 5  # named in the finding about one that breaks others
ALONE_MAX = 16  # that are tried one by one; of more, each costs a test of everything


class Version(NamedTuple):
    """One version of an object: its number within the uid, and the manifest (``metadata`` and ``spec``)."""

    number: int
    uid: str
    manifest: Mapping[str, Any]


class Blame(NamedTuple):
    """Something that is wrong. ``key`` is the object of the cloud's in which it stands, None for another's; ``file`` is
    the operator's file whose key is at fault, empty when it is not the operator's.
    """

    key: ObjectKey | None
    subject: str
    text: str
    file: str = ""


class Item(NamedTuple):
    """What is to be tried: a version of an object, or that it is not there any more (None)."""

    key: ObjectKey
    version: Version | None


Objects = dict[ObjectKey, Version]
Test = Callable[[Objects], list[Blame]]


def fit(test: Test, base: Objects, items: Sequence[Item]) -> tuple[Objects, dict[ObjectKey, str]]:
    """Return what is to run, and why each item that does not fit is left as it is in ``base``.

    Arguments: ``base`` is what runs, with which ``test`` finds nothing wrong.
    """
    fitted, errors, waiting = dict(base), dict[ObjectKey, str](), list(items)
    while waiting:
        left: list[Item] = []
        joint = waiting
        while joint and (blames := test(_with(fitted, joint))):
            own = {blame.key: blame.text for blame in reversed(blames)}
            blamed = [item for item in joint if item.key in own and item.version is not None]
            if not blamed:
                fitted = _halved(test, fitted, joint, blames, errors)
                joint = []
                break
            errors |= {item.key: own[item.key] for item in blamed}
            left += blamed
            joint = [item for item in joint if item not in blamed]
        fitted = _with(fitted, joint)
        for item in joint:
            errors.pop(item.key, None)
        if len(left) == len(waiting):
            break
        waiting = left
    rest = [item for item in items if item.key in errors]
    just_tried = len(rest) == 1 and rest == waiting
    return (fitted if just_tried or len(rest) > ALONE_MAX else _alone(test, fitted, rest, errors)), errors


def _alone(test: Test, base: Objects, items: Sequence[Item], errors: dict[ObjectKey, str]) -> Objects:
    """``base`` with those of ``items`` that fit, each by itself, as long as one does."""
    fitted, rest = base, list(items)
    while rest:
        left: list[Item] = []
        for item in rest:
            blames = test(_with(fitted, [item]))
            if blames:
                errors[item.key] = _broken(item, blames)
                left.append(item)
            else:
                fitted = _with(fitted, [item])
                del errors[item.key]
        if len(left) == len(rest):
            break
        rest = left
    return fitted


def _halved(
    test: Test, base: Objects, items: Sequence[Item], blames: Sequence[Blame], errors: dict[ObjectKey, str]
) -> Objects:
    """``base`` with those of ``items`` that break nothing; ``blames`` is what is wrong with all of them together."""
    if len(items) == 1:
        errors[items[0].key] = _broken(items[0], blames)
        return base
    fitted, middle = base, len(items) // 2
    for half in (items[:middle], items[middle:]):
        wrong = test(_with(fitted, half))
        if wrong:
            fitted = _halved(test, fitted, half, wrong, errors)
        else:
            fitted = _with(fitted, half)
            for item in half:
                errors.pop(item.key, None)
    return fitted


def _broken(item: Item, blames: Sequence[Blame]) -> str:
    kind, namespace, name = item.key
    own = next((blame.text for blame in blames if blame.key == item.key), "")
    if own and item.version is not None:
        return own
    named = list(dict.fromkeys(blame.subject for blame in blames))
    users = ", ".join(named[:BLAMED_MAX]) + (f" and {len(named) - BLAMED_MAX} more" * (len(named) > BLAMED_MAX))
    if item.version is None:
        return f"{kind} {namespace}/{name} is still used by {users}: delete or change these first"
    return f"{kind} {namespace}/{name} cannot run beside {users}: {blames[0].text}"


def _with(base: Objects, items: Sequence[Item]) -> Objects:
    objects = dict(base)
    for item in items:
        if item.version is None:
            objects.pop(item.key, None)
        else:
            objects[item.key] = item.version
    return objects
