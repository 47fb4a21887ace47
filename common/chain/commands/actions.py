"""Operations: choice, chance, limit, echo (L8). What they need of the outside they get from the run."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from common.chain import values
from common.chain.commands.spec import DYNAMIC, BadArgument, Example, Param, RunContext, Spec, Static, fault, needed
from common.chain.values import Set


def _choice(run: RunContext, given: Any) -> Any:
    kind = type(given)
    if kind is dict:
        return _weighted(run, given)
    if kind is not list and kind is not Set:
        return needed("choice", "a List, Set or Map", given)
    if not given:
        return fault("choice: nothing to choose from")
    items = given if kind is list else list(given)
    return items[int(run.random() * len(items))]


def _weighted(run: RunContext, weights: dict[str, Any]) -> Any:
    numbers: list[int | float] = []
    for key, value in weights.items():
        number = values.to_number(value)
        if number is None or number < 0 or not isfinite(number):
            return fault(f"choice: the weight of {key} is no number from 0 on")
        numbers.append(number)
    total = sum(numbers)
    if not total or not isfinite(total):
        return fault("choice: nothing to choose from" if not total else "choice: the weights are too large")
    left = run.random() * total
    chosen = ""
    for key, number in zip(weights, numbers, strict=True):
        if number:
            chosen = key
            left -= number
            if left < 0:
                break
    return chosen  # the last one with a weight where rounding left something


def _probability(value: Any) -> float | None:
    number = values.to_number(value)
    return None if number is None or not 0 <= number <= 1 else number


def _chance(run: RunContext, given: Any) -> Any:
    probability = _probability(given)
    if probability is None:
        return fault(f"chance: {values.text(given)[:40]} is no number from 0 to 1")
    return run.random() < probability


def _specialise_chance(static: Static) -> Callable[..., Any] | None:
    [given] = static.args
    if given is DYNAMIC:
        return None
    probability = _probability(given)
    if probability is None:
        raise BadArgument("must be a number from 0 to 1", 0)
    return lambda run: run.random() < probability


def _limit(run: RunContext, key: str, rate: Any, burst: Any = None) -> Any:
    per_second = values.to_number(rate)
    tokens = values.to_number(burst) if burst is not None else per_second
    if per_second is None or not 0 < per_second < float("inf"):
        return fault(f"limit: {values.text(rate)[:40]} is no rate, it must be a number above 0")
    if tokens is None or not 0 < tokens < float("inf") or (burst is not None and tokens < 1):
        return fault(f"limit: {values.text(burst)[:40]} is no burst, it must be a number from 1 on")
    return run.take(key, float(per_second), max(1.0, float(tokens)))


def _specialise_limit(static: Static) -> Callable[..., Any] | None:
    """Nothing is prepared; a literal that can never work is found when the text is loaded."""
    _, rate, *burst = static.args
    number = None if rate is DYNAMIC else values.to_number(rate)
    if rate is not DYNAMIC and (number is None or number <= 0):
        raise BadArgument("rate must be a number above 0", 1)
    number = None if not burst or burst[0] is DYNAMIC else values.to_number(burst[0])
    if burst and burst[0] is not DYNAMIC and (number is None or number < 1):
        raise BadArgument("burst must be a number from 1 on", 2)
    return None


def _echo(run: RunContext, *parts: str) -> str:
    line = " ".join(parts)
    run.echo(line)
    return line


CHOICE = Spec(
    "choice",
    "operations",
    "Choose one at random: an item of a list or set, each as likely; or a key of a map, by the weights that are its"
    " values. The host's seed fixes the order of choices.",
    params=(Param("from", "A list, a set, or a map of weights.", type="collection"),),
    ok="the item, or the key",
    faults="an empty collection, weights that are all 0, negative or no numbers, a scalar",
    effects=("random",),
    examples=(
        Example("choice [a]", "a"),
        Example('choice {"a": 0, "b": 0.5}', "b"),
        Example("nodes = []; choice $nodes", "choice: nothing to choose from", ok=False),
    ),
    aliases=("choices",),
    call=_choice,
    needs_run=True,
)

CHANCE = Spec(
    "chance",
    "operations",
    "True with a probability, for instance to let one request in a hundred fail.",
    params=(Param("probability", "From 0 (never) to 1 (always).", type="number"),),
    ok="true",
    answers="false in the other cases",
    faults="a computed probability that is no number from 0 to 1 (a literal one is a load error)",
    effects=("random",),
    examples=(
        Example("chance 1", True),
        Example("chance 0", False, ok=False),
        Example("p = 2; chance $p", "chance: 2 is no number from 0 to 1", ok=False),
    ),
    call=_chance,
    specialise=_specialise_chance,
    predicate=True,
    needs_run=True,
)

LIMIT = Spec(
    "limit",
    "operations",
    "A quota: true when the bucket of this key has a token, which is then taken. The bucket belongs to the host and all"
    " its hook points; it is full at first and refills at the rate.",
    params=(
        Param("key", "Whose bucket.", type="text"),
        Param("rate", "Tokens a second.", type="number"),
        Param("burst", "Tokens that it holds; without it the rate, at least 1.", type="number", optional=True),
    ),
    ok="true",
    answers="false when the bucket is empty",
    faults="a computed rate or burst that cannot be (a literal one is a load error)",
    effects=("clock",),
    examples=(
        Example('limit "a" 1 1', True),
        Example('limit "b" 0.001; limit "b" 0.001', False, ok=False),
        Example('r = 0; limit "c" $r', "limit: 0 is no rate, it must be a number above 0", ok=False),
    ),
    call=_limit,
    specialise=_specialise_limit,
    predicate=True,
    needs_run=True,
)

ECHO = Spec(
    "echo",
    "operations",
    "Write a line to the run's output, and to the debug log: the texts with a blank between them.",
    params=(Param("text", "What to write.", type="text", optional=True, repeated=True),),
    ok="the line",
    effects=("output",),
    examples=(Example('echo a 1 "b c"', "a 1 b c"), Example("echo [1, null]", "[1,null]")),
    call=_echo,
    needs_run=True,
    grows=True,
)

SPECS = (CHOICE, CHANCE, LIMIT, ECHO)
