"""The contracts of endpoints (flow F3): where arrivals come from, and where rules deliver to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from common.rules import EndpointType, RuleEndpoint
from edge.messages import Arrival, Delivery, FlowMessage


class Target(Protocol):
    """Where a rule delivers to."""

    @property
    def ready(self) -> bool:
        """False while a delivery must fail because there is no connection yet."""
        ...

    def deliver(self, message: FlowMessage, done: Callable[[Delivery], None]) -> None:
        """Deliver ``message``; ``done`` is called exactly once, now or later. Does not raise."""
        ...

    def close(self) -> None:
        """Nothing more will be delivered here; called when the rule's last execution has ended."""
        ...


class Wiring(NamedTuple):
    """One rule on a source: the endpoint, the rule's ``sourceResource``, and who takes the messages.

    ``consumer`` is opaque to endpoints: it goes back with the arrival.
    """

    endpoint: RuleEndpoint
    resource: Mapping[str, str]
    consumer: Any


class Rendering(NamedTuple):
    """What a target knows of its rule: node, namespace and name, and the seconds that an answer may take."""

    node: str
    namespace: str
    rule: str
    timeout_s: float = 10.0


OnArrival = Callable[[Arrival, Sequence[Any]], None]  # with the consumers that the message goes to, in their order


class Kind(Protocol):
    """A type of endpoint at work on this node. One for each type; further ones come from ``fieldpost.endpoints``."""

    type: EndpointType

    def bind(self, wirings: Sequence[Wiring]) -> None:
        """Set who gets what, for all rules with a source of this type; replaces what was bound, at once.

        Raises ConfigError or StorageError: nothing is changed then.
        """
        ...

    def target(self, endpoint: RuleEndpoint, resource: Mapping[str, str], rendering: Rendering) -> Target:
        """Make the target of one rule from the endpoint and the rule's ``targetResource``, which were checked."""
        ...

    async def start(self) -> None:
        """Begin to listen and to connect. Raises ConfigError for what can never work."""
        ...

    def pause(self) -> None:
        """Take nothing more, before the agent stops."""
        ...

    async def stop(self) -> None:
        """Disconnect and free everything."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Counters and gauges by name."""
        ...
