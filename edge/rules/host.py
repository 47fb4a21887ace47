"""The rule host: reads what a node is to run, applies it as a whole, and answers what the command line asks (F4, F6).

Every change takes one way: read and check all of it, build, swap at once for new messages. What cannot be applied
changes nothing and says why, with file and line. Of the cloud's objects each stands alone: one that does not fit keeps
its last good version running, and is tried again at every change (P6.1).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.clock import Clock
from common.control import Operation
from common.errors import ConfigError, FieldpostError, StorageError
from common.masking import mask_urls
from common.models import Refusal
from common.rules import RULE_KIND, Rule
from common.rulesync import ObjectKey
from edge.endpoints.base import Kind
from edge.endpoints.http_server import HttpListener, HttpPoints
from edge.messages import Arrival
from edge.rules.binding import Decision
from edge.rules.cloudlayer import idle_overrides
from edge.rules.configuration import Configuration, Files, Wanted
from edge.rules.edits import Address, Edit, words
from edge.rules.fitting import Blame, Item, Objects, fit
from edge.rules.hooking import check_free, load_hooks, swap_hooks
from edge.rules.ruleset import Resolve, RuleSet
from edge.rules.store import LastGood
from edge.rules.synced import Offer, Synced
from edge.rules.syncfile import SyncFile
from edge.rules.trial import Trial
from edge.settings import DownlinkSettings, FlowSettings
from edge.spool import Spool
from edge.spooltables import Input
from edge.status import RuleRef, Status

log = logging.getLogger(__name__)
chain_log = logging.getLogger("edge.chain")  # what chains echo

UNABLE = "unable"  # reason of a refusal that is not one of the object's: nothing is noted of it, it may come again


class RuleHost:
    """All that a node runs of rules, hooks and chains.

    Arguments: ``kinds`` are the endpoint types by name, filled before ``load``; ``labels`` are the node's.
    ``listeners`` are its HTTP servers, whose hook points get the chains of the configuration. ``last_good`` keeps what
    the files said, ``sync_file`` what the cloud sent; without them nothing is kept.
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
        sync_file: SyncFile | None = None,
        downlink: DownlinkSettings | None = None,
    ) -> None:
        self._last_good, self.trouble = last_good, ""
        self.listeners: Sequence[HttpListener] = ()
        self._node, self._clock, self._kinds = {"id": node, "labels": dict(labels)}, clock, kinds
        self._configuration = configuration
        self.rules = RuleSet(node, status, spool, kinds, labels=labels, decide=self._decide, flow=flow, clock=clock)
        self._wanted: Wanted | None = None
        self._files = Files([], [])  # what the files said when they were read last
        self._sync_file, self._limits = sync_file, downlink or DownlinkSettings()
        self.synced = Synced()  # what the node has of the cloud's
        self.on_synced: Callable[[], None] = lambda: None  # called when the list of it has changed
        self._changing = asyncio.Lock()  # one change at a time, until its listeners and connections are there
        self._hooks: dict[str, Callable[..., Any]] = {}
        self._engine: Any = None
        self.reloads = self.refused = 0

    @property
    def arrived(self) -> Callable[[Arrival, Any], None]:
        """Where sources bring their arrivals."""
        return self.rules.arrived

    def load(self) -> None:
        """Read the files and run what they say, with all of the cloud's objects that fit. Raises ConfigError or
        StorageError: what ran before goes on.
        """
        files = self._configuration.files()
        self._run_files(files)
        self.trouble = ""
        if self._last_good is not None:
            self._last_good.save(files)

    def begin(self) -> None:
        """As ``load``, at a start, with what the cloud sent before it: when the files are broken, run the last good
        version of them, and say so in ``trouble``.

        Raises as ``load`` when there is none.
        """
        if self._sync_file is not None:
            self.synced = self._sync_file.load()
        try:
            return self.load()
        except ConfigError as exc:
            kept = self._last_good.load() if self._last_good is not None else None
            if kept is None:
                raise
            self._run_files(kept)
            self.trouble = str(exc)
            log.critical("the rules are broken; the last good version of them runs: %s", exc)

    def _run_files(self, files: Files) -> None:
        """The files go before: what is wrong in them is an error, what of the cloud's does not fit to them waits."""
        synced, trial = self.synced.copy(), Trial(self._configuration, files)
        wrong = [blame.text for blame in trial(synced.running()) if blame.key is None or blame.file]
        if wrong:
            raise ConfigError("\n".join(wrong))
        ran = synced.ran()
        synced.settle(*fit(trial, {}, ran))
        fitted, errors = fit(trial, synced.running(), synced.untried())
        synced.settle(*self._run_fitting(trial, fitted, errors, {}, ran))
        self._files = files
        self._keep(synced)

    # -- the cloud's objects -------------------------------------------------------------------------------------------

    async def offer(self, offers: Sequence[Offer]) -> list[Refusal | None]:
        """Take what the cloud wants, and whatever waited for it; returns when it runs and is on the disk. For each of
        ``offers``, no two of the same object: None for OK, or why it is refused (P6.1).
        """
        async with self._changing:
            synced = self.synced.copy()
            over = [synced.take(offer, self._limits) for offer in offers]
            try:
                await self._change(synced)
            except (ConfigError, StorageError) as exc:
                self.refused += len(offers)
                return [Refusal(UNABLE, str(exc))] * len(offers)
            try:
                await self._connect()
            except ConfigError as exc:
                log.error("rules of the cloud run, without this: %s", exc)
            answers = [refusal or synced.answer(offer) for refusal, offer in zip(over, offers, strict=True)]
            self.refused += sum(answer is not None for answer in answers)
            return answers

    async def _change(self, synced: Synced) -> None:
        """Run what fits of ``synced``, and put it on the disk. Raises ConfigError or StorageError: all is as before."""
        base, items = self.synced.running(), synced.untried()
        trial = Trial(self._configuration, self._files, self._configuration.edits)
        try:
            if items:
                fitted, errors = await asyncio.to_thread(fit, trial, base, items)
                synced.settle(*self._run_fitting(trial, fitted, errors, base, items))
            if self._sync_file is not None and not synced.same_as(self.synced):
                await asyncio.to_thread(self._sync_file.save, synced)
        except (ConfigError, StorageError):
            if items:
                self._run(trial, base)
            raise
        self._take_over(synced)

    def _run_fitting(
        self, trial: Trial, fitted: Objects, errors: dict[ObjectKey, str], base: Objects, items: Sequence[Item]
    ) -> tuple[Objects, dict[ObjectKey, str]]:
        """Run ``fitted``. When something that no check sees is in the way, try ``items`` over ``base`` by running
        them. Raises as ``load`` when it is none of the items.
        """
        try:
            self._run(trial, fitted)
            return fitted, errors
        except (ConfigError, StorageError) as exc:
            log.warning("not all rules of the cloud can run: %s", exc)

        def run(objects: Objects) -> list[Blame]:
            blames = trial(objects)
            try:
                if not blames:
                    self._apply(trial.wanted(objects))
            except (ConfigError, StorageError) as exc:
                return [Blame(None, "the rest", str(exc))]
            return blames

        fitted, errors = fit(run, base, items)
        self._run(trial, fitted)
        return fitted, errors

    def _run(self, trial: Trial, objects: Objects) -> None:
        wanted, edits = trial.edited(objects)
        self._apply(wanted)
        self._configuration.keep(edits)

    def _keep(self, synced: Synced) -> None:
        """Note what a reload made of the cloud's objects. It can be found again, so a full disk does not stop it."""
        changed = not synced.same_as(self.synced)
        self._take_over(synced)
        try:
            if changed and self._sync_file is not None:
                self._sync_file.save(synced)
        except StorageError as exc:
            log.error("%s", exc)

    def _take_over(self, synced: Synced) -> None:
        before, self.synced = self.synced, synced
        for held in synced:
            known = before.get(held.key)
            if held.error and (known is None or known.error != held.error):
                log.error("%s %s/%s, version %d of the cloud, does not run: %s", *held.key, held.version, held.error)
        if synced.version != before.version:
            self.on_synced()

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
            self._apply(self._configuration.wanted(self._files, self.synced.running(), edits))
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
            servers = HttpChains(
                wanted.points, self._engine_of_chains(), self.rules.named, self._clock, self.rules.turns
            )
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

    def resume(self, inputs: Sequence[Input]) -> None:
        """Run journalled inputs again (``RuleSet.resume``)."""
        self.rules.resume(inputs, lambda namespace, name: self.synced.removed_uid(RULE_KIND, namespace, name))

    # -- what the command line asks ------------------------------------------------------------------------------------

    def operations(self) -> dict[str, Operation]:
        """Operations of the control socket."""
        return {"config.show": self._show, "rule.edit": self._edit, "reload": self._reload}

    async def _show(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        if self._wanted is None:
            return []
        edited = [{"key": f"edit {number}", "value": mask_urls(words(edit)), "origin": "overlay"}
                  for number, edit in enumerate(self._configuration.edits, 1)]  # fmt: skip
        if self.trouble:
            edited.insert(0, {"key": "not running", "value": self.trouble, "origin": "files"})
        edited += [
            {"key": f"{kind} {name}", "value": text, "origin": origin} for kind, name, text, origin in self._off()
        ]
        return edited + [
            {"key": ".".join(key), "value": mask_urls(value), "origin": str(origin)}
            for key, value, origin in self._wanted.merged.leaves()
        ]

    def _off(self) -> Iterator[tuple[str, str, str, str]]:
        """What is not running though it is there: refused versions, and overrides of what has not come."""
        for held in self.synced:
            if held.error:
                yield (
                    held.kind,
                    f"{held.namespace}/{held.name}",
                    f"version {held.version}: {held.error}",
                    "node_gateway",
                )
        assert self._wanted is not None
        for layer in self._files.above:
            for section, name in idle_overrides(layer, self._wanted.merged):
                yield section, name, "waits for the cloud to send it", f"{layer.name} {layer.file}"

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
