"""A node for tests of chains: as in ``tests.flow.node``, with rules that decide by their chains."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

from common.chain.hookpoint import Engine
from common.chain.run import Budgets
from common.clock import ManualClock, SystemClock
from common.rulechains import commands, source_of
from common.rules import Rule
from edge.flow.chains import ChainPoints
from edge.rules.binding import Decision
from edge.rules.decision import ChainDecision
from edge.rules.ruleset import Resolve
from edge.settings import FlowSettings
from edge.status import RuleRef
from tests.flow.node import Played


class Chained(Played):
    """A node whose rules have chains, with a clock of its own for their rests."""

    def __init__(self, path: Path, manifests: str, *, flow: FlowSettings | None = None) -> None:
        budgets = Budgets(wall_time_ms_max=0)  # a busy machine ends no run
        self.engine = Engine(commands(), budgets=budgets, seed=1, clock=SystemClock())
        self.time = ManualClock()
        self.points = ChainPoints(self.engine)
        super().__init__(path, manifests, decide=self.decide, points=self.points, flow=flow)

    def decide(self, rule: Rule, ref: RuleRef, resolve: Resolve) -> Decision | None:
        """As the agent does."""
        source = source_of(rule.spec)
        node = {"id": "edge-1", "labels": {"site": "north"}}
        return ChainDecision(source, ref, node, self.engine, resolve, self.time) if source else None


def chained(name: str, chain: str, target: str = "bus") -> str:
    """A rule with an inline chain."""
    return (
        f"---\napiVersion: rules.kubeedge.io/v1\nkind: Rule\nmetadata: {{name: {name}}}\nspec:\n"
        f'  source: bus\n  sourceResource: {{topic: "in/#"}}\n  target: {target}\n'
        f'  targetResource: {{topic: "out/{name}"}}\n  chain: |\n{indent(chain, "    ")}\n'
    )
