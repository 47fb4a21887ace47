"""The hook engine: handlers at the seven points of a message's way (flow F2, rules 1 to 6).

Node-RED's engine with its traps closed: how a handler answers is settled when it is added and never guessed, the list
is fixed when a trigger starts, every handler has a time limit, every answer that means nothing is reported, and an
error says which hook, which label and which message.

``trigger`` runs plain handlers in one loop of plain calls; only a handler that answers later (an awaitable, or a
``done`` that is not called at once) makes an object that goes on from there, in the same loop, without recursion.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from common.errors import HookError
from edge.flow.events import msgid_of

POINTS = ("onSend", "preRoute", "preDeliver", "postDeliver", "onReceive", "postReceive", "onComplete")

TIMEOUT_S = 5.0  # for a handler that answers later
CONTAINED = (Exception, SystemExit, asyncio.CancelledError)  # what a handler may raise without ending the agent

Done = Callable[..., None]  # done(), done(False) or done(error)


class _Handler:
    """One registered handler. ``takes_done``: it has a second parameter and answers by calling it."""

    __slots__ = ("fn", "label", "removed", "takes_done")

    def __init__(self, fn: Callable[..., Any], label: str, takes_done: bool) -> None:
        self.fn, self.label, self.takes_done = fn, label, takes_done
        self.removed = False


class _Point:
    """The handlers of a hook point, from one change to the next. ``plain``: place and function of each, when all are
    called as ``fn(payload)``, else None. ``stale``: the list was changed, so a trigger that still walks it must look
    twice.
    """

    __slots__ = ("handlers", "plain", "stale")

    def __init__(self, handlers: tuple[_Handler, ...] = ()) -> None:
        self.handlers, self.stale = handlers, False
        self.plain = None if any(h.takes_done for h in handlers) else tuple(enumerate(h.fn for h in handlers))


class Hooks:
    """The handlers of one node.

    ``timeout_s`` bounds a handler that answers later. ``second_answers`` counts calls of ``done`` after the first.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s, self.second_answers = timeout_s, 0
        self._points = {name: _Point() for name in POINTS}
        self.any = False  # one test tells that no point has a handler
        self.quiet = frozenset(POINTS)  # the points that have none

    def add(self, name: str, fn: Callable[..., Any]) -> None:
        """Add ``fn`` at the end of a hook point: ``name`` is ``preRoute``, or ``preRoute.audit`` with a label.

        ``fn(payload)`` answers by what it returns, or an awaitable of it; ``fn(payload, done)`` by calling ``done``.
        Raises HookError for an unknown hook, a label that the point has already, or another signature.
        """
        point, _, label = name.partition(".")
        self._check_point(point)
        handlers = self._points[point].handlers
        if label and any(handler.label == label for handler in handlers):
            raise HookError(f"there is a handler {name!r} already; remove it first, or choose another label")
        self._set(point, (*handlers, _Handler(fn, label, _takes_done(fn, name))))

    def replace(self, name: str, fn: Callable[..., Any]) -> None:
        """Put ``fn`` in the place of the handler ``preRoute.audit``; a trigger that runs goes on with the one before.

        Raises HookError for a name that is not there, or a signature that ``add`` refuses.
        """
        point, _, label = name.partition(".")
        if not label or not self.has(name):
            raise HookError(f"there is no handler {name!r} to replace")
        new = _Handler(fn, label, _takes_done(fn, name))
        self._set(point, tuple(new if handler.label == label else handler for handler in self._points[point].handlers))

    def remove(self, name: str) -> None:
        """Remove ``preRoute.audit``, or with ``*.audit`` that label everywhere; a trigger that runs skips it.

        Raises HookError for an unknown hook, or a name without a label: what has none cannot be removed.
        """
        point, _, label = name.partition(".")
        if not label:
            raise HookError(f"{name!r} has no label: only a handler that was added with one can be removed")
        if point != "*":
            self._check_point(point)
        for each in POINTS if point == "*" else (point,):
            handlers = self._points[each].handlers
            for handler in handlers:
                handler.removed |= handler.label == label
            if any(handler.removed for handler in handlers):
                self._set(each, tuple(handler for handler in handlers if not handler.removed))

    def has(self, name: str) -> bool:
        """True when the point ``preRoute`` has a handler, or ``preRoute.audit`` is there. Raises HookError for an
        unknown hook.
        """
        point, _, label = name.partition(".")
        self._check_point(point)
        return any(not label or handler.label == label for handler in self._points[point].handlers)

    def clear(self) -> None:
        """Remove all handlers, those without a label too; a trigger that runs skips them."""
        for name, point in self._points.items():
            for handler in point.handlers:
                handler.removed = True
            self._set(name, ())

    def trigger(self, name: str, payload: Any, done: Done | None = None) -> Awaitable[bool | None] | None:
        """Run the handlers of a point with ``payload``.

        With ``done``: it is called once, with nothing (go on), False (halted) or a HookError. Without: returns an
        awaitable of None or False that raises the HookError. Plain handlers have all run when this returns.
        Raises HookError for an unknown hook.
        """
        if name in self.quiet and done is not None:
            done()
            return None
        try:
            point = self._points[name]
        except KeyError:
            raise _unknown(name) from None
        if done is None:
            outcome = _Outcome()
            self.trigger(name, payload, outcome)
            return outcome
        plain = point.plain
        if plain is None:
            _Later(self, name, payload, done, point.handlers).go_on()
            return None
        answer: Any = None
        error: BaseException | None = None
        try:
            for at, fn in plain:  # noqa: B007 - a break leaves the place of the handler
                answer = fn(payload)
                if (answer is not None and answer is not True) or point.stale:
                    break
            else:
                at = -1
        except CONTAINED as exc:
            error = exc
        if at < 0:
            done()
        else:
            _Later(self, name, payload, done, point.handlers).resume(at, error, answer)
        return None

    def _set(self, name: str, handlers: tuple[_Handler, ...]) -> None:
        self._points[name].stale = True
        self._points[name] = _Point(handlers)
        self.quiet = frozenset(name for name, point in self._points.items() if not point.handlers)
        self.any = len(self.quiet) < len(POINTS)

    def _check_point(self, point: str) -> None:
        if point not in self._points:
            raise _unknown(point)


class _Outcome:
    """What ``trigger`` without ``done`` returns: an awaitable that may have its answer already."""

    __slots__ = ("_answer", "_future")

    def __init__(self) -> None:
        self._answer: tuple[object] | None = None
        self._future: asyncio.Future[None] | None = None

    def __call__(self, answer: object = None) -> None:
        self._answer = (answer,)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, None, bool | None]:
        if self._answer is None:
            self._future = asyncio.get_running_loop().create_future()
            yield from self._future.__await__()
        assert self._answer is not None
        (answer,) = self._answer
        if isinstance(answer, BaseException):
            raise answer
        return False if answer is False else None


class _Later:
    """A trigger that goes on handler by handler, because one of them may answer later or the list was changed."""

    __slots__ = ("_at", "_done", "_handlers", "_hooks", "_looping", "_name", "_payload")

    def __init__(self, hooks: Hooks, name: str, payload: Any, done: Done, handlers: tuple[_Handler, ...]) -> None:
        self._hooks, self._name, self._payload, self._done, self._handlers = hooks, name, payload, done, handlers
        self._at, self._looping = 0, False

    def resume(self, at: int, error: BaseException | None, answer: object, *, awaited: bool = False) -> None:
        """Take the answer of handler ``at``, then go on behind it."""
        self._at = at
        if self._take(error, answer, awaited):
            self.go_on()

    def go_on(self) -> None:
        """Call one handler after the other, until one answers later or ends it."""
        self._looping = True
        while self._looping and self._at < len(self._handlers):
            handler = self._handlers[self._at]
            if handler.removed:
                self._at += 1
            elif handler.takes_done:
                self._looping = self._call_with_done(handler)
            else:
                self._looping = self._call(handler)
        if self._looping:
            self._looping = False
            self._done()

    def _call(self, handler: _Handler) -> bool:
        try:
            answer = handler.fn(self._payload)
        except CONTAINED as exc:
            return self._take(exc, None)
        return self._take(None, answer)

    def _call_with_done(self, handler: _Handler) -> bool:
        answer = _Answer(self, self._hooks, self._at)
        try:
            handler.fn(self._payload, answer.done)
        except CONTAINED as exc:
            answer.give(exc, None)
        return answer.settle()

    def _take(self, error: BaseException | None, answer: object, awaited: bool = False) -> bool:
        """Deal with one answer; True: the next handler's turn has come."""
        handler = self._handlers[self._at]
        if error is None:
            if answer is None or answer is True:
                self._at += 1
                return True
            if answer is False:
                self._done(False)
                return False
            if inspect.isawaitable(answer) and not awaited and not handler.takes_done:
                task = asyncio.ensure_future(_contained(answer))
                waiting = _Answer(self, self._hooks, self._at, task)
                task.add_done_callback(lambda _: waiting.give(*_result_of(task)))
                waiting.settle()
                return False
            error = _meaningless(answer)
        self._done(_error(self._name, handler, self._payload, error))
        return False


class _Answer:
    """One answer that is expected, within the time limit: the first counts."""

    __slots__ = ("_at", "_given", "_hooks", "_later", "_task", "_timer")

    def __init__(self, later: _Later, hooks: Hooks, at: int, task: asyncio.Future[Any] | None = None) -> None:
        self._later, self._hooks, self._at, self._task = later, hooks, at, task
        self._given: tuple[BaseException | None, object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def done(self, answer: object = None) -> None:
        """What a handler calls: ``done()``, ``done(False)`` or ``done(error)``."""
        self.give(*((answer, None) if isinstance(answer, BaseException) else (None, answer)))

    def give(self, error: BaseException | None, answer: object) -> None:
        """Take the answer, if it is the first."""
        if self._given is not None:
            self._hooks.second_answers += self._task is None
            return
        self._given = (error, answer)
        if self._timer is not None:
            self._timer.cancel()
            self._later.resume(self._at, error, answer, awaited=True)

    def settle(self) -> bool:
        """Called when the handler has returned. True: it has answered, and the next one's turn has come."""
        if self._given is not None:
            return self._later._take(*self._given, True)
        self._timer = asyncio.get_running_loop().call_later(self._hooks.timeout_s, self._overdue)
        return False

    def _overdue(self) -> None:
        self.give(TimeoutError(f"did not answer within {self._hooks.timeout_s:g} s"), None)
        if self._task is not None:
            self._task.cancel()


async def _contained(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except SystemExit as exc:  # in a task it would end the loop
        raise HookError(f"SystemExit: {exc}") from exc


def _result_of(task: asyncio.Future[Any]) -> tuple[BaseException | None, object]:
    if task.cancelled():
        return asyncio.CancelledError("the handler's task was cancelled"), None
    error = task.exception()
    return (error, None) if error is not None else (None, task.result())


def _takes_done(fn: Callable[..., Any], name: str) -> bool:
    """How the handler answers. Raises HookError for a signature that is neither (payload) nor (payload, done)."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError) as exc:
        raise HookError(f"handler of {name!r}: {fn!r} has no signature to look at; wrap it in a function") from exc
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed_by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    count = len([p for p in positional if p.default is p.empty]) or len(positional)
    if count not in (1, 2) or needed_by_name:
        raise HookError(
            f"handler of {name!r} must take (payload), or (payload, done) and call done once; "
            f"this one is {getattr(fn, '__qualname__', fn)}{inspect.signature(fn)}"
        )
    if count == 2 and inspect.iscoroutinefunction(fn):
        raise HookError(f"handler of {name!r} is asynchronous and takes done: it can answer in one way only")
    return count == 2


def _unknown(name: str) -> HookError:
    return HookError(f"there is no hook {name!r}; there are {', '.join(POINTS)}")


def _meaningless(answer: object) -> TypeError:
    return TypeError(f"returned {_shown(answer)}: a handler returns None or True to go on, False to halt, or raises")


def _error(name: str, handler: _Handler, payload: Any, cause: BaseException) -> HookError:
    where = f"{name}.{handler.label}" if handler.label else name
    error = HookError(f"hook {where}: {_shown(cause, str) or type(cause).__name__}")
    error.hook, error.label, error.msgid = name, handler.label, msgid_of(payload)
    error.__cause__ = cause
    return error


def _shown(value: object, how: Callable[[object], str] = repr) -> str:
    """A text of what a handler gave; its type's name where that raises."""
    try:
        return how(value)
    except Exception:
        return type(value).__name__
