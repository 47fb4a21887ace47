"""Which objects fit together: the most that can, found with few tests (edge.rules.fitting)."""

from __future__ import annotations

import random

import pytest

from common.rulesync import ObjectKey
from edge.rules.fitting import Blame, Item, Objects, Version, fit


def key(name: str) -> ObjectKey:
    """A rule's key."""
    return "Rule", "default", name


def version(needs: str = "", breaks: str = "", bad: bool = False) -> Version:
    """A version that needs an object, breaks another, or is bad by itself."""
    return Version(1, "u", {"needs": needs, "breaks": breaks, "bad": bad})


class World:
    """Says what is wrong with a set, as the checks of manifests do, and counts how often it is asked."""

    def __init__(self) -> None:
        self.tests = 0

    def __call__(self, objects: Objects) -> list[Blame]:
        self.tests += 1
        blames = []
        for of, (_, _, manifest) in objects.items():
            needs, breaks = manifest["needs"], manifest["breaks"]
            if manifest["bad"]:
                blames.append(Blame(of, of[2], f"{of[2]} is bad"))
            if needs and key(needs) not in objects:
                blames.append(Blame(of, of[2], f"{of[2]} needs {needs}"))
            if breaks and key(breaks) in objects:
                blames.append(Blame(key(breaks), breaks, f"{breaks} is broken"))
        return blames


def test_a_thousand_that_fit_are_one_test() -> None:
    """Whatever their order, also when each needs the one after it."""
    items = [Item(key(f"r{n}"), version(needs=f"r{n + 1}" if n < 999 else "")) for n in range(1000)]
    world = World()
    fitted, errors = fit(world, {}, items)
    assert (len(fitted), errors, world.tests) == (1000, {}, 1)


def test_many_that_are_bad_by_themselves_cost_no_search() -> None:
    """They are blamed, and left out together."""
    items = [Item(key(f"r{n}"), version(bad=n % 2 == 0)) for n in range(1000)]
    world = World()
    fitted, errors = fit(world, {}, items)
    assert (len(fitted), len(errors)) == (500, 500)
    assert world.tests <= 3


def test_the_one_that_breaks_others_is_found_by_halving() -> None:
    """What ran goes on, the rest of the new ones is taken, and the finding names what would break."""
    base = {key("old"): version()}
    items = [Item(key(f"r{n}"), version(breaks="old" if n == 700 else "")) for n in range(1000)]
    world = World()
    fitted, errors = fit(world, base, items)
    assert list(errors) == [key("r700")]
    assert errors[key("r700")] == "Rule default/r700 cannot run beside old: old is broken"
    assert len(fitted) == 1000
    assert world.tests <= 30


def test_a_deletion_that_others_need_is_refused_and_says_who() -> None:
    """At most five are named."""
    base = {key("bus"): version()} | {key(f"r{n}"): version(needs="bus") for n in range(7)}
    fitted, errors = fit(World(), base, [Item(key("bus"), None)])
    assert fitted == base
    assert errors[key("bus")].endswith("is still used by r0, r1, r2, r3, r4 and 2 more: delete or change these first")


@pytest.mark.parametrize("seed", range(60))
def test_what_runs_is_always_right_and_nothing_that_fits_alone_is_left_out(seed: int) -> None:
    """Random worlds: the result tests clean, what ran still runs unless it was replaced or deleted, everything that is
    not taken has an error, and adding any of it to the result would break something.
    """
    rng = random.Random(seed)
    names = [f"n{n}" for n in range(8)]
    base = {key(name): version() for name in names[:4]}

    def drawn() -> Version:
        return version(rng.choice(["", "", *names]), rng.choice(["", "", "", *names[:4]]), rng.random() < 0.15)

    items = [Item(key(name), None if rng.random() < 0.2 else drawn()) for name in rng.sample(names, 5)]
    fitted, errors = fit(World(), base, items)
    assert World()(fitted) == []
    for item in items:
        if item.key in errors:
            assert fitted.get(item.key) == base.get(item.key)
            tried = dict(fitted)
            if item.version is None:
                tried.pop(item.key, None)
            else:
                tried[item.key] = item.version
            assert World()(tried), (item, errors[item.key])
        else:
            assert fitted.get(item.key) == item.version
    untouched = {of: was for of, was in base.items() if of not in {item.key for item in items}}
    assert untouched.items() <= fitted.items()
