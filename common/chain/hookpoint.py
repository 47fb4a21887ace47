"""Hook points: what a host declares, mounts lists of chains on, and runs (L7).

engine = Engine()
point = HookPoint("main", engine=engine, inputs={"REQ": Access.READ_ONLY})
point.mount(source)
outcome = point.run({"REQ": {"path": "/"}})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from common.chain.buckets import Buckets
from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import Registry
from common.chain.compiler import Cache
from common.chain.emitter import Config
from common.chain.errors import ChainErrors
from common.chain.linking import Linker, duplicate
from common.chain.nodes import LibSource
from common.chain.run import Access, Budgets, Clock, Outcome, StoppedClock
from common.chain.running import LinkedLib
from common.chain.runtime import Program, Runner
from common.chain.verbs import COMMON, Shape, Verbs

MISSING_POLICIES = ("lenient", "strict")


class Engine:
    """What hook points share: commands, global chains, compiled code, token buckets, the random generator.

    Arguments: ``commands``, the registry; ``libs``, the global chains by id; ``budgets`` of every run; ``seed`` of the
    generator behind ``choice`` and ``chance``, None for one that cannot be foreseen; ``clock``, the host's, without
    which time stands still; ``log``, which gets the lines of ``echo`` and the errors that end runs, for debugging.
    """

    def __init__(
        self,
        commands: Registry = BUILTIN,
        libs: Mapping[str, LibSource] | None = None,
        budgets: Budgets | None = None,
        seed: int | None = None,
        clock: Clock | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.commands, self.libs, self.budgets = commands, dict(libs or {}), budgets or Budgets()
        self.clock: Clock = clock or StoppedClock()
        self.random, self.log, self.cache = Random(seed), log, Cache()
        self.take = Buckets(self.clock.monotonic).take


@dataclass(frozen=True, slots=True)
class Mounted:
    """A list that is mounted on a hook point; what ``unmount`` takes."""

    source: LibSource
    linked: LinkedLib

    @property
    def id(self) -> str:
        """The list's id."""
        return self.source.id


class HookPoint(Runner):
    """A place where a host runs chains. A run sees the lists that were mounted when it began.

    Arguments: ``name``; ``inputs``, what chains may do with each; ``verbs``, what they may decide; ``default``, the
    verb of a run in which nothing decides; ``fail``, that of a run that fails; ``missing``, the policy for reads of
    what is not there, ``lenient`` or ``strict``.
    """

    def __init__(
        self,
        name: str,
        *,
        engine: Engine | None = None,
        inputs: Mapping[str, Access] | None = None,
        verbs: Verbs | Iterable[str] | Mapping[str, Shape] = tuple(COMMON),
        default: str = "reject",
        fail: str = "reject",
        missing: str = "lenient",
    ) -> None:
        if missing not in MISSING_POLICIES:
            raise ValueError(f"missing is one of {', '.join(MISSING_POLICIES)}, not {missing}")
        self.name, self.engine, self.inputs = name, engine or Engine(), dict(inputs or {})
        self.verbs = verbs if isinstance(verbs, Verbs) else Verbs(verbs)
        for verb in (default, fail):
            if verb not in self.verbs.shapes:
                raise ValueError(f"{verb} is no verb of this hook point")
        self.default, self.fail, self._strict = default, fail, missing == "strict"
        self._linkers: dict[bool, Linker] = {}
        self.mounted: tuple[Mounted, ...] = ()
        super().__init__(self._programmed(()))
        self._traced: Program | None = None

    # -- mounting ------------------------------------------------------------------------------------------------------

    def mount(self, source: LibSource) -> Mounted:
        """Mount one list behind the others. Raises ChainErrors with all that is wrong; then nothing changes."""
        return self.mount_all([source])[0]

    def mount_all(self, sources: Iterable[LibSource]) -> list[Mounted]:
        """Mount several lists in one step: all, or none. Raises ChainErrors with all that is wrong with them and with
        the global chains.
        """
        linker = self._linker(traced=False)
        errors = list(linker.errors)
        made: list[Mounted] = []
        ids = {mounted.id for mounted in self.mounted}
        for source in sources:
            linked, found = linker.linked(source)
            if source.id in ids:
                blocks = [block for chain in linked.chains for block in chain.blocks]
                found.append(duplicate(f"a list with the id {source.id} is mounted already", source.id, blocks))
            ids.add(source.id)
            errors += found
            made.append(Mounted(source, linked))
        if errors:
            raise ChainErrors(errors)
        self._swap((*self.mounted, *made))
        return made

    def unmount(self, mounted: Mounted) -> None:
        """Take a list away. Raises ValueError for one that is not mounted here."""
        if mounted not in self.mounted:
            raise ValueError(f"{mounted.id} is not mounted on {self.name}")
        self._swap(tuple(other for other in self.mounted if other is not mounted))

    def _swap(self, mounted: tuple[Mounted, ...]) -> None:
        """From here on, runs that begin see these lists."""
        program = self._programmed([entry.linked for entry in mounted])
        self.mounted, self.program, self._traced = mounted, program, None

    def _linker(self, *, traced: bool) -> Linker:
        """The linker of this hook point's configuration; it has linked the global chains."""
        if traced not in self._linkers:
            engine = self.engine
            config = Config(self.inputs, engine.commands, self.verbs, self._strict, traced)
            self._linkers[traced] = Linker(config, engine.cache, engine.budgets, engine.libs)
        return self._linkers[traced]

    def _programmed(self, libs: Iterable[LinkedLib]) -> Program:
        engine = self.engine
        return Program(
            tuple(libs),
            budgets=engine.budgets,
            verbs=self.verbs,
            inputs=self.inputs,
            default=self.default,
            fail=self.fail,
            random=engine.random,
            clock=engine.clock,
            take=engine.take,
            log=engine.log,
        )

    def traced(self) -> Program:
        if self._traced is None:
            linker = self._linker(traced=True)
            self._traced = self._programmed([linker.link(mounted.source) for mounted in self.mounted])
        return self._traced


__all__ = ["Access", "Budgets", "Engine", "HookPoint", "Mounted", "Outcome", "Shape", "Verbs"]
