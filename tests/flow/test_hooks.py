"""The hook engine, rule by rule (flow F2, rules 1 to 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from common.errors import HookError
from edge.flow.events import FlowMessage, Place, SendEvent
from edge.flow.hooks import POINTS, Hooks

Style = Callable[[Callable[[Any], Any]], Callable[..., Any]]


def plain(body: Callable[[Any], Any]) -> Callable[..., Any]:
    """A handler that answers by returning."""
    return lambda payload: body(payload)


def awaitable(body: Callable[[Any], Any]) -> Callable[..., Any]:
    """A handler that answers by an awaitable, a turn of the loop later."""

    async def handler(payload: Any) -> Any:
        await asyncio.sleep(0)
        return body(payload)

    return handler


def calls_done(body: Callable[[Any], Any]) -> Callable[..., Any]:
    """A handler that answers by calling done, at once."""

    def handler(payload: Any, done: Any) -> None:
        try:
            answer = body(payload)
        except Exception as exc:
            answer = exc
        done(answer)

    return handler


def calls_done_later(body: Callable[[Any], Any]) -> Callable[..., Any]:
    """A handler that answers by calling done, a turn of the loop later."""
    inner = calls_done(body)
    return lambda payload, done: asyncio.get_running_loop().call_soon(inner, payload, done) and None


STYLES = (plain, awaitable, calls_done, calls_done_later)


def event(msgid: str = "m-1") -> SendEvent:
    """A SendEvent with a message of that id."""
    return SendEvent(FlowMessage(msgid=msgid), Place("a"), Place("b"))


def failing(payload: Any) -> None:
    """What a broken handler does."""
    raise ValueError("broken")


async def outcome(hooks: Hooks, name: str, payload: Any, *, by_done: bool) -> Any:
    """Trigger in one of the two forms; returns None, False or the error."""
    if by_done:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        hooks.trigger(name, payload, lambda found=None: answer.set_result(found))
        return await answer
    pending = hooks.trigger(name, payload)
    assert pending is not None
    try:
        return await pending
    except HookError as exc:
        return exc


# -- rule 1 and 2: registry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onsend", "preInstall", "", "*", ".x"])
def test_1_an_unknown_hook_is_an_error(name: str) -> None:
    """add, has and trigger name the hooks that there are."""
    hooks = Hooks()
    for call in (lambda: hooks.add(name, plain(print)), lambda: hooks.has(name), lambda: hooks.trigger(name, None)):
        with pytest.raises(HookError, match="there are onSend, preRoute, preDeliver"):
            call()


def test_1_the_same_label_twice_is_an_error() -> None:
    """A label is taken once a point; the same one at another point, and handlers without label, are free."""
    hooks = Hooks()
    hooks.add("preRoute.audit", plain(print))
    with pytest.raises(HookError, match=r"'preRoute\.audit' already"):
        hooks.add("preRoute.audit", plain(print))
    hooks.add("onSend.audit", plain(print))
    hooks.add("preRoute", plain(print))
    hooks.add("preRoute", plain(print))


def test_1_a_label_may_have_dots() -> None:
    """What follows the first dot is the label, whole: a.b and a.c are two."""
    hooks = Hooks()
    hooks.add("onSend.a.b", plain(print))
    hooks.add("onSend.a.c", plain(print))
    hooks.remove("onSend.a.b")
    assert (hooks.has("onSend.a.b"), hooks.has("onSend.a.c")) == (False, True)


@pytest.mark.parametrize("name", POINTS)
async def test_2_handlers_run_in_the_order_of_adding(name: str) -> None:
    """At each of the seven points, mixed styles too; the payload is the very object, and changes are seen."""
    hooks, seen = Hooks(), []
    for number, style in enumerate(STYLES * 2):
        hooks.add(name, style(lambda payload, number=number: seen.append((number, payload))))
    payload = event()
    assert await outcome(hooks, name, payload, by_done=True) is None
    assert [number for number, _ in seen] == list(range(8))
    assert all(got is payload for _, got in seen)


def test_2_removing_by_label() -> None:
    """One label of one point, a label everywhere, never one without a label; has follows."""
    hooks = Hooks()
    for name in ("preRoute.audit", "preRoute.other", "onSend.audit", "onComplete"):
        hooks.add(name, plain(print))
    hooks.remove("preRoute.audit")
    assert [hooks.has(n) for n in ("preRoute.audit", "preRoute.other", "preRoute")] == [False, True, True]
    hooks.remove("*.audit")
    assert not hooks.has("onSend")
    for name in ("onComplete", "*", "*."):
        with pytest.raises(HookError, match="no label"):
            hooks.remove(name)
    hooks.remove("preRoute.nobody")
    assert hooks.any
    hooks.clear()
    assert not hooks.any
    assert not any(map(hooks.has, POINTS))


# -- rule 3: how a handler answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_done", [True, False])
@pytest.mark.parametrize("style", STYLES)
async def test_3_going_on_halting_failing(style: Style, by_done: bool) -> None:
    """None and True go on, False halts, an exception halts with the error; what is behind does not run then."""
    for body, behind in ((lambda p: None, 1), (lambda p: True, 1), (lambda p: False, 0), (failing, 0)):
        hooks, ran = Hooks(), []
        hooks.add("preRoute.first", style(body))
        hooks.add("preRoute", plain(ran.append))
        found = await outcome(hooks, "preRoute", event(), by_done=by_done)
        assert len(ran) == behind
        if body is failing:
            assert str(found) == "hook preRoute.first: broken"
        else:
            assert found is (None if behind else False)


@pytest.mark.parametrize("by_done", [True, False])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("answer", [0, 1, "", "false", [], {}])
async def test_3_another_answer_is_reported(style: Style, by_done: bool, answer: Any) -> None:
    """What is neither None, True nor False is the handler's fault, not a go-on and not a halt."""
    hooks = Hooks()
    hooks.add("onSend.odd", style(lambda payload: answer))
    hooks.add("onSend", plain(lambda payload: pytest.fail("the next handler ran")))
    found = await outcome(hooks, "onSend", [event()], by_done=by_done)
    assert isinstance(found, HookError)
    assert f"hook onSend.odd: returned {answer!r}: a handler returns None or True to go on" in str(found)


async def test_3_a_second_done_is_ignored_and_counted() -> None:
    """The first answer counts, at once or later; a handler that raises after done changes nothing."""
    hooks, later = Hooks(), []

    def twice(payload: Any, done: Any) -> None:
        done()
        done(False)
        later.append(done)
        raise ValueError("after done")

    hooks.add("preRoute", twice)
    assert await outcome(hooks, "preRoute", event(), by_done=True) is None
    later[0](ValueError("much later"))
    assert hooks.second_answers == 3


@pytest.mark.parametrize(
    "handler",
    [lambda: None, lambda a, b, c: None, lambda *args: None, lambda **named: None, lambda a, *, b: None],
    ids=["none", "three", "any", "named", "by-name"],
)
def test_3_another_signature_is_refused(handler: Callable[..., Any]) -> None:
    """add takes (payload) and (payload, done), and says so."""
    with pytest.raises(HookError, match=r"must take \(payload\), or \(payload, done\)"):
        Hooks().add("onSend", handler)


def test_3_a_coroutine_function_with_done_is_refused() -> None:
    """A handler answers in one way."""

    async def both(payload: Any, done: Any) -> None: ...

    with pytest.raises(HookError, match="one way only"):
        Hooks().add("onSend", both)


def test_3_methods_and_defaults_count_as_they_are_called() -> None:
    """A bound method has its payload only; a second parameter with a default is no done."""

    class Audit:
        def look(self, payload: Any) -> None: ...

    hooks = Hooks()
    hooks.add("onSend", Audit().look)
    hooks.add("onSend", lambda payload, factor=2: None)
    called: list[Any] = []
    hooks.trigger("onSend", [], lambda found=None: called.append(found))
    assert called == [None]


# -- rule 4: trigger ---------------------------------------------------------------------------------------------------


def test_4_plain_handlers_complete_before_trigger_returns() -> None:
    """In both forms, and without an event loop."""
    hooks, called = Hooks(), []
    for _ in range(3):
        hooks.add("preRoute", plain(lambda payload: None))
    hooks.trigger("preRoute", event(), lambda found=None: called.append(found))
    assert called == [None]
    pending: Any = hooks.trigger("preRoute", event())
    with pytest.raises(StopIteration) as stopped:
        pending.__await__().send(None)
    assert stopped.value.value is None


@pytest.mark.parametrize("by_done", [True, False])
@pytest.mark.parametrize("style", STYLES)
async def test_4_the_error_says_hook_label_message(style: Style, by_done: bool) -> None:
    """With the cause chained."""
    hooks = Hooks()
    hooks.add("preDeliver.audit", style(failing))
    found = await outcome(hooks, "preDeliver", event("m-7"), by_done=by_done)
    assert (found.hook, found.label, found.msgid) == ("preDeliver", "audit", "m-7")
    assert isinstance(found.__cause__, ValueError)


async def test_4_an_answer_that_comes_before_the_await_is_not_lost() -> None:
    """The awaitable may be awaited long after."""
    hooks = Hooks()
    hooks.add("onReceive", awaitable(lambda payload: False))
    pending: Awaitable[Any] | None = hooks.trigger("onReceive", event())
    assert pending is not None
    for _ in range(5):
        await asyncio.sleep(0)
    assert await pending is False


# -- rule 5: the list is fixed when a trigger starts -------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("later", [plain, awaitable, calls_done])
async def test_5_removed_handlers_are_skipped(style: Style, later: Style) -> None:
    """By itself or by another, while the trigger runs; the rest still runs."""
    hooks, ran = Hooks(), []

    def first(payload: Any) -> None:
        ran.append("a")
        hooks.remove("onSend.a")
        hooks.remove("onSend.c")

    hooks.add("onSend.a", style(first))
    for name in "bcd":
        hooks.add(f"onSend.{name}", later(lambda payload, name=name: ran.append(name)))
    assert await outcome(hooks, "onSend", [event()], by_done=False) is None
    assert ran == ["a", "b", "d"]


@pytest.mark.parametrize("style", STYLES)
async def test_5_added_handlers_run_from_the_next_trigger_on(style: Style) -> None:
    """Also one that was removed and added again."""
    hooks, ran = Hooks(), []

    def adds(payload: Any) -> None:
        ran.append("a")
        if not hooks.has("onSend.z"):
            hooks.add("onSend.z", plain(lambda payload: ran.append("z")))

    hooks.add("onSend.a", style(adds))
    await outcome(hooks, "onSend", [], by_done=True)
    await outcome(hooks, "onSend", [], by_done=True)
    assert ran == ["a", "a", "z"]


async def test_5_the_same_function_twice_runs_twice() -> None:
    """A halt of its second run is told from the first."""
    hooks, runs = Hooks(), []

    def handler(payload: Any) -> bool | None:
        runs.append(1)
        return None if len(runs) == 1 else False

    hooks.add("onSend", handler)
    hooks.add("onSend", handler)
    hooks.add("onSend", handler)
    assert await outcome(hooks, "onSend", [], by_done=True) is False
    assert len(runs) == 2


@pytest.mark.parametrize("style", [plain, calls_done])
async def test_5_thousands_of_handlers_need_no_recursion(style: Style) -> None:
    """20,000 handlers, and one that answers later in front."""
    hooks, count = Hooks(), []
    hooks.add("onSend", awaitable(lambda payload: None))
    hooks._set("onSend", hooks._points["onSend"].handlers + tuple(_many(style(count.append))))
    assert await outcome(hooks, "onSend", [], by_done=True) is None
    assert len(count) == 20_000


def _many(handler: Callable[..., Any]) -> list[Any]:
    """20,000 registered copies of a handler; add alone would take minutes (it copies the list each time)."""
    other = Hooks()
    other.add("onSend", handler)
    return list(other._points["onSend"].handlers) * 20_000


async def test_5_triggers_nest_and_overlap() -> None:
    """A handler may trigger the same point; two that wait end in any order."""
    hooks, order = Hooks(), []
    waits = {"slow": asyncio.Event(), "fast": asyncio.Event()}

    async def waiting(payload: Any) -> None:
        await waits[payload].wait()
        order.append(payload)

    hooks.add("onSend", waiting)
    hooks.add("preRoute", plain(lambda payload: hooks.trigger("postDeliver", payload, lambda found=None: None)))
    both = [asyncio.ensure_future(outcome(hooks, "onSend", name, by_done=True)) for name in ("slow", "fast")]
    await asyncio.sleep(0)
    waits["fast"].set()
    await both[1]
    waits["slow"].set()
    await both[0]
    assert order == ["fast", "slow"]
    assert await outcome(hooks, "preRoute", event(), by_done=True) is None


@pytest.mark.parametrize("by_done", [True, False])
@pytest.mark.parametrize(
    "handler", [lambda payload: asyncio.Event().wait(), lambda payload, done: None], ids=["awaitable", "done"]
)
async def test_5_a_handler_that_does_not_answer_is_an_error(by_done: bool, handler: Callable[..., Any]) -> None:
    """Within its time limit; a later answer is ignored."""
    hooks = Hooks(timeout_s=0.02)
    hooks.add("onReceive.slow", handler)
    found = await outcome(hooks, "onReceive", event("m-9"), by_done=by_done)
    assert str(found) == "hook onReceive.slow: did not answer within 0.02 s"
    assert found.msgid == "m-9"


# -- rule 6: without handlers ------------------------------------------------------------------------------------------


async def test_6_without_handlers_trigger_goes_on_at_once() -> None:
    """Both forms; and one attribute tells that there is no handler anywhere."""
    hooks, called = Hooks(), []
    hooks.trigger("onComplete", None, lambda found=None: called.append(found))
    assert called == [None]
    assert await outcome(hooks, "onComplete", None, by_done=False) is None
    assert not hooks.any
