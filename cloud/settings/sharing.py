"""Settings of several controllers at one broker and store."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class SharingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How several controllers, each with an id of its own and all with one PostgreSQL store, divide the uplink (P7.2).

    What is chosen never decides about counts, only about who does the work.
    """

    mode: Annotated[
        Literal["auto", "shared", "standby", "alone"],
        Meta(
            description="shared: by the broker's shared subscriptions; standby: one takes all while the others wait "
            "for its lease; alone: this one takes all. auto: alone with SQLite, which no other controller can use; "
            "with PostgreSQL shared where the broker has it, else standby."
        ),
    ] = "auto"
    group: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9-]{1,64}$",
            description="Name of their group at a broker with shared subscriptions, the same for all. A node that "
            "knows it can take messages from them, which come again later; fieldpost broker init makes a random one.",
        ),
    ] = "fieldpost"
    lease_s: Annotated[
        float,
        Meta(ge=0.5, le=300, description="Seconds after which another controller takes over from one that is silent."),
    ] = 5.0
