"""The rule host: reads what a node is to run, applies it as a whole, and answers what the command line asks (F4, F6).

Every change takes one way: read and check all of it, build, swap at once for new messages. What cannot be applied
changes nothing and says why, with file and line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.clock import Clock
from common.config import mask_urls
from common.control import Operation
from common.errors import ConfigError, FieldpostError
from common.rules import Rule
from edge.endpoints.base import Kind
from edge.endpoints.http_server import HttpListener, HttpPoints
from edge.messages import Arrival
from edge.rules.binding import Decision
from edge.rules.configuration import Configuration, Wanted
from edge.rules.edits import Address, Edit
from edge.rules.hooking import check_free, load_hooks, swap_hooks
from edge.rules.layers import Merged, Origin
from edge.rules.ruleset import Resolve, RuleSet
from edge.rules.store import LastGood
from edge.settings import FlowSettings
from edge.spool import Spool
from edge.status import RuleRef, Status

log = logging.getLogger(__name__)
chain_log = logging.getLogger("edge.chain")  # what chains echo


class RuleHost:
    """All that a node runs of rules, hooks and chains.

    Arguments: ``kinds`` are the endpoint types by name, filled before ``load``; ``labels`` are the node's.
    ``listeners`` are its HTTP servers, whose hook points get the chains of the configuration.
    """

    def __init__(
        self,
        node: str,
        labels: Mapping[str, str],
        status: Status,
        spool: Spool,
        kinds: Mapping[str, Kind],
        configuration: Configuration,
        *,
        flow: FlowSettings,
        clock: Clock,
        last_good: LastGood | None = None,
    ) -> None:
        self._last_good, self.trouble = last_good, ""
        self.listeners: Sequence[HttpListener] = ()
        self._node, self._clock, self._kinds = {"id": node, "labels": dict(labels)}, clock, kinds
        self._configuration = configuration
        self.rules = RuleSet(node, status, spool, kinds, decide=self._decide, flow=flow, clock=clock)
        self._wanted: Wanted | None = None
        self._files = Merged({}, {})  # what the files said when they were read last
        self._changing = asyncio.Lock()  # one change at a time, until its listeners and connections are there
        self._hooks: dict[str, Callable[..., Any]] = {}
        self._engine: Any = None
        self.reloads = self.refused = 0

    @property
    def arrived(self) -> Callable[[Arrival, Any], None]:
        """Where sources bring their arrivals."""
        return self.rules.arrived

    def load(self) -> None:
        """Read the configuration and run it. Raises ConfigError or StorageError: what ran before goes on."""
        wanted = self._configuration.read()
        self._apply(wanted)
        self._configuration.keep([])
        self._files, self.trouble = wanted.merged, ""
        if self._last_good is not None:
            self._last_good.save(wanted.merged.value)

    def begin(self) -> None:
        """As ``load``, at a start: when the files are broken, run the last good version, and say so in ``trouble``.

        Raises as ``load`` when there is none.
        """
        try:
            return self.load()
        except ConfigError as exc:
            kept = self._last_good.load() if self._last_good is not None else None
            if kept is None:
                raise
            self._files = Merged(kept, {(): Origin("last good version")})
            self._apply(self._configuration.wanted(self._files))
            self.trouble = str(exc)
            log.critical("the rules are broken; the last good version of them runs: %s", exc)

    async def reload(self) -> None:
        """Read the files again, drop the overlay, and connect what is new.

        Raises as ``load``: nothing changes then; and as ``connect``: the new rules run, without what is named.
        """
        async with self._changing:
            try:
                self.load()
            except Exception:
                self.refused += 1
                raise
            self.reloads += 1
            log.info("reloaded: %d rules", len(self.rules))
            await self._connect()

    async def edit(self, edit: Edit) -> None:
        """Put one more edit over what the files said, until the next reload. Raises as ``reload``."""
        async with self._changing:
            edits = [*self._configuration.edits, edit]
            self._apply(self._configuration.wanted(self._files, edits=edits))
            self._configuration.keep(edits)
            log.warning("rules are edited for diagnosis: %s %s", edit.operation, ":".join(map(str, edit.address)))
            await self._connect()

    async def connect(self) -> None:
        """Begin to listen and to connect where rules need it. One that fails keeps no other from starting.

        Raises ConfigError with all that failed.
        """
        async with self._changing:
            await self._connect()

    def _apply(self, wanted: Wanted) -> None:
        hooks, points = load_hooks(wanted.hooks), None
        check_free(self.rules.hooks, self._hooks, hooks)
        servers = HttpPoints()
        if wanted.points:
            from edge.rules.httpchains import HttpChains
            from edge.rules.mounting import chain_points

            points = chain_points(wanted.points, self._engine_of_chains())
            servers = HttpChains(wanted.points, self._engine_of_chains(), self.rules.named, self._clock)
        self.rules.load(wanted.manifests)
        swap_hooks(self.rules.hooks, self._hooks, hooks)
        self._hooks, self._wanted, self.rules.router.points = hooks, wanted, points
        for listener in self.listeners:
            listener.points = servers

    async def _connect(self) -> None:
        failed: list[str] = []
        for kind in self._kinds.values():
            try:
                await kind.start()
            except FieldpostError as exc:
                failed.append(str(exc))
        if failed:
            self.trouble = "\n".join(failed)
            raise ConfigError(self.trouble)

    # -- chains --------------------------------------------------------------------------------------------------------

    def _decide(self, rule: Rule, ref: RuleRef, resolve: Resolve) -> Decision | None:
        if not rule.spec.chain.strip() and rule.spec.chains is None:
            return None
        from common.rulechains import source_of  # the language is loaded when a rule needs it: start light
        from edge.rules.decision import ChainDecision

        source = source_of(rule.spec)
        assert source is not None
        return ChainDecision(source, ref, self._node, self._engine_of_chains(), resolve, self._clock)

    def _engine_of_chains(self) -> Any:
        if self._engine is None:
            from common.chain.hookpoint import Engine
            from common.rulechains import commands

            self._engine = Engine(commands(), clock=self._clock, log=chain_log.debug)
        return self._engine

    # -- what the command line asks ------------------------------------------------------------------------------------

    def operations(self) -> dict[str, Operation]:
        """Operations of the control socket."""
        return {"config.show": self._show, "rule.edit": self._edit, "reload": self._reload}

    async def _show(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        if self._wanted is None:
            return []
        edited = [{"key": f"edit {number}", "value": mask_urls(_words(edit)), "origin": "overlay"}
                  for number, edit in enumerate(self._configuration.edits, 1)]  # fmt: skip
        if self.trouble:
            edited.insert(0, {"key": "not running", "value": self.trouble, "origin": "files"})
        return edited + [
            {"key": ".".join(key), "value": mask_urls(value), "origin": str(origin)}
            for key, value, origin in self._wanted.merged.leaves()
        ]

    async def _edit(self, args: dict[str, Any]) -> dict[str, Any]:
        position = args.get("position", 0)
        if not isinstance(position, int):
            raise ConfigError("position must be a number")
        address = Address.parse(str(args.get("address", "")))
        await self.edit(Edit(str(args.get("edit", "")), address, str(args.get("text", "")), position))
        return {"rules": len(self.rules), "edits": len(self._configuration.edits)}

    async def _reload(self, args: dict[str, Any]) -> dict[str, Any]:
        dropped = len(self._configuration.edits)
        await self.reload()
        return {"rules": len(self.rules), "dropped": dropped}


def _words(edit: Edit) -> str:
    place = ":".join(str(part) for part in edit.address if part)
    return f"{edit.operation} {place} {edit.text or edit.position}"
