"""MqttLink: a link over the MQTT client that the settings name (``broker.client``)."""

from __future__ import annotations

from common.messaging.connection import Connection, Session
from common.messaging.link import ReconnectingLink
from common.messaging.native import NativeConnection
from common.messaging.stream import Stream


class MqttLink(ReconnectingLink):
    """``base.Link`` over a broker: MQTT 5 or 3.1.1, TCP or TLS, by our own client or paho's.

    Arguments: ``client_id``; ``will`` is asked at each connect; ``manual_ack`` for sources that acknowledge what is
    durable (P5.3); ``session_expiry_s`` 0 for a clean session, else the broker keeps the session so long (on 3.1.1
    until it forgets).
    """

    def connection(self, stream: Stream, session: Session) -> Connection:
        if self._settings.client == "native":
            return NativeConnection(stream, session, self)
        from common.messaging.pahoclient import PahoConnection  # here: who does not use it need not load it

        return PahoConnection(stream, session, self)
