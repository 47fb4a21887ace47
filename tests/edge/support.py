"""What tests of the edge share: encoded results, a spool whose outcomes are collected, and a link under control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import codec as codecs
from common.errors import NotConnectedError
from common.messaging.base import PUBLISHED, Inbound, Properties, Receipt, Subscription
from common.models import Confirmation, ExecResult
from edge.batching import Frozen, Packed
from edge.settings import SpoolSettings, UplinkSettings
from edge.spool import Spool

NODE, ROOT = "edge-1", "fieldpost"


def result(rule: str = "overheat", source_id: str = "", namespace: str = "default", count: int = 1) -> ExecResult:
    """A successful result."""
    return ExecResult(rule, namespace, "SUCCESS", outcome="delivered", source_id=source_id, count=count)


def packed(item: ExecResult, codec: codecs.CodecName = "json") -> Packed:
    """One encoded result, as Status makes it."""
    return Packed(item.project_id, item.rule_id, codec, 1, item.count, codecs.encode(item, codec))


def results_of(message: Frozen) -> list[ExecResult]:
    """Decode a frozen message as the cloud would."""
    content = codecs.decode(message.payload, ExecResult | list[ExecResult]).content
    return content if isinstance(content, list) else [content]


class Collected:
    """A spool in a directory, with everything that it handed over."""

    def __init__(
        self, path: Path, spool: SpoolSettings | None = None, window: UplinkSettings | None = None, node: str = NODE
    ) -> None:
        self.frozen: list[Frozen] = []
        self.fatal: list[BaseException] = []
        self.durable: list[str] = []
        self.spool = Spool(
            path / "spool.db",
            node,
            ROOT,
            on_frozen=self.frozen.extend,
            on_fatal=self.fatal.append,
            settings=spool,
            window=window,
        )
        self.left, self.inputs = self.spool.open()
        self.spool.start()

    def accept(self, item: ExecResult, codec: codecs.CodecName = "json", **more: Any) -> None:
        """Queue a result; its source id appears in ``durable`` when it is on disk."""
        self.spool.accept(packed(item, codec), lambda: self.durable.append(item.source_id), **more)

    def confirm(self, messages: Sequence[Frozen]) -> None:
        """Confirm exactly these messages, in the form that the cloud uses."""
        for message in messages:
            self.spool.confirm(Confirmation(str(message.epoch), 0, [message.sequence]))


class FakeLink:
    """A link whose connection and acknowledgements the test controls; used where a fault must come at one moment."""

    def __init__(self) -> None:
        self.connected = False
        self.generation = 0
        self.payload_bytes_max = codecs.PAYLOAD_BYTES_MAX
        self.published: list[tuple[str, bytes, int, bool]] = []
        self.acked: list[Inbound] = []
        self.subscriptions: list[Subscription] = []
        self.hold = False  # keep acknowledgements back
        self.held: list[Callable[[int], None]] = []
        self.on_message: Callable[[Inbound], None] = lambda inbound: None
        self.on_connect: Callable[[], None] = lambda: None
        self.on_disconnect: Callable[[str], None] = lambda reason: None

    def connect(self) -> None:
        self.connected = True
        self.generation += 1
        self.on_connect()

    def disconnect(self) -> None:
        self.connected = False
        self.on_disconnect("cut by the test")

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> None:
        if not self.connected:
            raise NotConnectedError("not connected")
        self.published.append((topic, payload, qos, retain))
        if on_done is not None:
            if self.hold:
                self.held.append(on_done)
            else:
                on_done(PUBLISHED)

    def ack(self, receipt: Receipt) -> bool:
        self.acked.append(receipt)
        return receipt.generation == self.generation

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        self.subscriptions = list(subscriptions)

    async def start(self) -> None:
        self.connect()

    async def stop(self) -> None:
        self.connected = False

    def statistics(self) -> dict[str, int]:
        return {}
