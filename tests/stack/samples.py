"""The samples in deploy/mosquitto: written by ``python -m tests.stack.samples``, compared by a test with what the code
makes.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from common.brokerfiles.identities import of_controllers, of_node, of_people
from common.brokerfiles.rendering import mosquitto_acl, mosquitto_conf

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "mosquitto"


def samples() -> dict[str, str]:
    """Name and text of each file: a broker for the node gw-7 and two controllers, in Debian's places."""
    identities = [*of_controllers(2), *of_people(), *of_node("gw-7", ("devices/#",), ("fleet/{node}/#",))]
    return {
        "mosquitto.conf": mosquitto_conf(
            at=PurePosixPath("/etc/mosquitto/fieldpost"), data=PurePosixPath("/var/lib/mosquitto"),
            bind="", port=8883, certificate_port=8884,
        ),
        "acl": mosquitto_acl(identities, "fieldpost"),
    }  # fmt: skip


if __name__ == "__main__":
    for name, text in samples().items():
        (DIRECTORY / name).write_text(text)
