"""The MQTT sink: the status of each rule as a retained message at the controller's own broker (P8.5, P3.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec

from cloud.forwarders.base import Answer, Delivered, Refused, Retry
from cloud.settings.forward import MqttSinkSettings
from cloud.stores.status import RuleKey, RuleStatus
from common.errors import RefusedError, TransportError
from common.messaging.base import NOBODY_LISTENS, NOT_SENT, PUBLISHED, Link
from common.topics import status_topic


class MqttSink:
    """Publishes retained JSON on ``<root>/status/<namespace>/<rule>``, and clears it when the rule is gone.

    A status that is larger than the broker takes goes without its nodes and errors.
    """

    name = "mqtt"

    def __init__(self, link: Link, root: str, settings: MqttSinkSettings) -> None:
        self._link, self._root, self._timeout_s = link, root, settings.timeout_s
        self.batch_max, self.interval_s, self.rate_max = settings.batch_max, settings.interval_s, settings.rate_max

    @property
    def connected(self) -> bool:
        """See Connects."""
        return self._link.connected

    async def start(self) -> None:
        """See Sink. The link is the controller's."""

    async def stop(self) -> None:
        """See Sink."""

    async def deliver(self, statuses: Sequence[RuleStatus]) -> Sequence[Answer]:
        """See Sink."""
        return await self._publish([(status.key, self._payload(status)) for status in statuses])

    async def forget(self, keys: Sequence[RuleKey]) -> Sequence[Answer]:
        """See Forgets."""
        return await self._publish([(key, b"") for key in keys])

    def _payload(self, status: RuleStatus) -> bytes:
        payload = msgspec.json.encode(status)
        if len(payload) <= self._link.payload_bytes_max:
            return payload
        return msgspec.json.encode(msgspec.structs.replace(status, nodes=[], errors=[]))

    async def _publish(self, messages: Sequence[tuple[RuleKey, bytes]]) -> list[Answer]:
        """Publish all, then wait for the broker to confirm each."""
        waiting = [self._sent(key, payload) for key, payload in messages]
        futures = [future for future in waiting if isinstance(future, asyncio.Future)]
        if futures:
            await asyncio.wait(futures, timeout=self._timeout_s)
        late = Retry(f"the broker did not confirm within {self._timeout_s:g} s")
        return [
            (future.result() if future.done() else late) if isinstance(future, asyncio.Future) else future
            for future in waiting
        ]

    def _sent(self, key: RuleKey, payload: bytes) -> asyncio.Future[Answer] | Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        try:
            topic = status_topic(self._root, key.namespace, key.rule)
            self._link.publish(topic, payload, qos=1, retain=True, on_done=partial(_done, future))
        except TransportError as exc:
            return Retry(str(exc))
        except RefusedError as exc:  # its topic or size is not for this broker
            return Refused(str(exc))
        return future


def _done(future: asyncio.Future[Answer], code: int) -> None:
    if future.done():
        return
    if code in (PUBLISHED, NOBODY_LISTENS):
        future.set_result(Delivered())
    elif code == NOT_SENT:
        future.set_result(Retry("the connection to the broker ended"))
    else:
        future.set_result(Retry(f"the broker refused it with reason code {code:#04x}"))
