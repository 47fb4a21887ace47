"""The cloud's settings: one frozen section, every attribute with unit, default and reason (experience U3).

Each part's section is in a module of its own here, and is composed in ``CloudSettings``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud.settings.api import ApiSettings
from cloud.settings.conditions import ConditionSettings
from cloud.settings.forward import ForwardSettings
from cloud.settings.kubernetes import KubernetesSettings
from cloud.settings.queues import QueueSettings
from cloud.settings.sharing import SharingSettings
from cloud.settings.store import StoreSettings
from common.settings import SharedSettings

__all__ = [
    "ApiSettings", "CloudSettings", "ConditionSettings", "ForwardSettings", "KubernetesSettings", "QueueSettings",
    "Settings", "SharingSettings", "StoreSettings", "store_url",
]  # fmt: skip


class CloudSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``cloud`` of the configuration."""

    controller: Annotated[
        str,
        Meta(
            pattern="^cloud-[0-9]+$",
            max_length=63,
            description="Id of this controller, cloud-<n>: its MQTT client id and its presence. One per process.",
        ),
    ] = "cloud-1"
    stale_s: Annotated[
        float,
        Meta(gt=0, description="Seconds without a word from a node that said online, after which it is unknown."),
    ] = 60.0
    store: StoreSettings = StoreSettings()
    queues: QueueSettings = QueueSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    api: ApiSettings = ApiSettings()
    sharing: SharingSettings = SharingSettings()
    conditions: ConditionSettings = ConditionSettings()
    forward: ForwardSettings = ForwardSettings()


class Settings(SharedSettings, frozen=True, forbid_unknown_fields=True):
    """Run one cloud controller: every result counted once, whatever is sent twice."""

    cloud: CloudSettings = CloudSettings()


def store_url(settings: Settings) -> str:
    """Return the URL of the store: the one that is set, or the SQLite file in the data directory."""
    return settings.cloud.store.url or f"sqlite:///{Path(settings.data_dir).absolute() / 'cloud.db'}"
