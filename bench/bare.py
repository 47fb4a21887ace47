"""The yardstick for results one by one: a bare paho QoS 1 publisher and subscriber, as people write them.

Run as a program it is one side of the pair: ``python -m bench.bare pub|sub PORT COUNT BYTES``.
"""

from __future__ import annotations

import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

TOPIC = "bench/bare"
INFLIGHT = 64


def subscribe(port: int, count: int) -> None:
    """Receive ``count`` messages; prints when it is ready, then wall and CPU seconds from the first to the last."""
    client, got, began, cpu = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5), 0, 0.0, 0.0

    def on_message(*_: object) -> None:
        nonlocal got, began, cpu
        got += 1
        if got == 1:
            began, cpu = time.perf_counter(), time.process_time()
        if got == count:
            print(time.perf_counter() - began, time.process_time() - cpu, flush=True)
            client.disconnect()

    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.on_connect = lambda *_: client.subscribe(TOPIC, 1)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def publish(port: int, count: int, size: int) -> None:
    """Publish ``count`` messages of ``size`` bytes at QoS 1, at most INFLIGHT at a time; prints its CPU seconds."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(INFLIGHT)
    done = sent = 0
    payload = b"x" * size

    def more() -> None:
        nonlocal sent
        while sent < count and sent - done < INFLIGHT:
            sent += 1
            client.publish(TOPIC, payload, qos=1)

    def on_publish(*_: object) -> None:
        nonlocal done
        done += 1
        more()
        if done == count:
            client.disconnect()

    client.on_publish = on_publish
    client.on_connect = lambda *_: more()
    client.connect("127.0.0.1", port)
    cpu = time.process_time()
    client.loop_forever()
    print(time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    side, port, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    subscribe(port, count) if side == "sub" else publish(port, count, size)
