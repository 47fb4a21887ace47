"""The load of B2: publishes to ``in/<n>`` and counts what comes back on ``out/#``, over two plain sockets, MQTT 3.1.1.

``python -m bench.load PORT QOS COUNT TOPICS RATE KINDS``: COUNT messages of 200 bytes over TOPICS topics. With RATE 0
as fast as they come back (at most WINDOW are on their way), else so many per second. Each carries ``kind``, ``k<n>`` in
turns of KINDS. Prints one line of JSON: ``took`` in seconds from the first to the last, and ``latencies`` in seconds
when there is a rate. Every id must come back, at QoS 0 only once, or it ends with an error.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator

BYTES = 200
WINDOW, WINDOW_AT_RATE = 1000, 200
"""Messages on their way at most: no queue of the broker or a rule overflows."""
STALL_S = 10.0
_HEAD = b'{"id":"%08d","temperature":91.5,"kind":"k%d","pad":"'
_ID_AT = len(b'{"id":"')


class Client:
    """One connection, cut down to what a load needs."""

    def __init__(self, port: int, name: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.out, self._read = bytearray(), b""
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + _text(name)
        self.sock.sendall(b"\x10" + bytes((len(body),)) + body)
        self._expect(0x20)

    def subscribe(self, filter_: str, qos: int) -> None:
        """Subscribe, and wait for the SUBACK."""
        body = b"\x00\x01" + _text(filter_) + bytes((qos,))
        self.sock.sendall(b"\x82" + bytes((len(body),)) + body)
        self._expect(0x90)

    def _expect(self, first: int) -> None:
        while not (packets := list(self.packets())):
            pass
        assert packets[0][0] == first, packets

    def packets(self) -> Iterator[tuple[int, bytes]]:
        """First byte and body of each whole packet that one read gives."""
        data = self.sock.recv(1 << 18)
        assert data, "the broker closed the connection"
        data, at = self._read + data, 0
        while len(data) - at >= 2:
            size, shift, start = 0, 0, at + 1
            while start < len(data):
                byte = data[start]
                size |= (byte & 0x7F) << shift
                shift, start = shift + 7, start + 1
                if byte < 0x80:
                    break
            else:
                break
            if start + size > len(data):
                break
            yield data[at], data[start : start + size]
            at = start + size
        self._read = data[at:]

    def flush(self) -> None:
        """Send what has gathered."""
        if self.out:
            self.sock.sendall(self.out)
            self.out.clear()


class Load:
    """One run."""

    def __init__(self, port: int, qos: int, count: int, topics: int, rate: float, kinds: int) -> None:
        self._qos, self._count, self._rate, self._kinds = qos, count, rate, kinds
        self._topics = [_text(f"in/{at}") for at in range(topics)]
        self._pub, self._sub = Client(port, "load-pub"), Client(port, "load-sub")
        self._sub.subscribe("out/#", qos)
        self._sent_at = [0.0] * count
        self._seen = bytearray(count)
        self._sent = self._back = self._acked = 0
        self._latencies: list[float] = []

    def run(self) -> dict[str, object]:
        """Send all, wait for all."""
        began = heard = time.perf_counter()
        while self._back < self._count or self._acked < self._count * self._qos:
            now = time.perf_counter()
            self._send_due(now - began)
            wait = 1.0 if not self._rate else max(0.0, began + self._sent / self._rate - time.perf_counter())
            ready, _, _ = select.select([self._pub.sock, self._sub.sock], [], [], min(wait, 1.0))
            for sock in ready:
                heard = now
                self._take_acks() if sock is self._pub.sock else self._take()
            assert now - heard < STALL_S, f"{self._back} of {self._count} came back"
        took = time.perf_counter() - began
        assert self._seen.count(1) == self._count
        return {"took": took, "latencies": self._latencies}

    def _send_due(self, elapsed: float) -> None:
        due = self._count if not self._rate else min(self._count, int(elapsed * self._rate) + 1)
        window = WINDOW_AT_RATE if self._rate else WINDOW
        for number in range(self._sent, min(due, self._back + window)):
            topic = self._topics[number % len(self._topics)]
            payload = (_HEAD % (number, number % self._kinds)).ljust(BYTES - 2, b"x") + b'"}'
            mid = (number % 65_535 + 1).to_bytes(2) if self._qos else b""
            size = len(topic) + len(mid) + BYTES
            head = bytes((0x30 | self._qos << 1, size & 0x7F | 0x80, size >> 7))
            self._pub.out += head + topic + mid + payload
            self._sent_at[number] = time.perf_counter()
            self._sent = number + 1
        self._pub.flush()

    def _take_acks(self) -> None:
        for first, _ in self._pub.packets():
            assert first == 0x40, first
            self._acked += 1

    def _take(self) -> None:
        now, id_at = time.perf_counter(), _ID_AT
        for first, body in self._sub.packets():
            topic_end = 2 + (body[0] << 8 | body[1])
            at = topic_end
            if first & 6:
                self._sub.out += b"\x40\x02" + body[at : at + 2]
                at += 2
            number = int(body[at + id_at : at + id_at + 8])
            assert len(body) - at == BYTES, body
            if self._seen[number]:
                assert self._qos, f"message {number} came twice"
                continue
            self._seen[number] = 1
            self._back += 1
            if self._rate:
                self._latencies.append(now - self._sent_at[number])
        self._sub.flush()


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2) + raw


def main() -> None:
    """Run as the docstring says."""
    port, qos, count, topics, rate, kinds = sys.argv[1:7]
    told = Load(int(port), int(qos), int(count), int(topics), float(rate), int(kinds)).run()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
