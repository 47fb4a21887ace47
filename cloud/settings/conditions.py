"""Settings of the conditions of rules."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ConditionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a rule is Ready or Degraded (P8.1)."""

    interval_s: Annotated[
        float,
        Meta(gt=0, description="Seconds between two looks at all rules; more when a look takes long, see operations."),
    ] = 5.0
    degraded_share: Annotated[
        float,
        Meta(ge=0, lt=1, description="Share of failures above which a rule is Degraded; 0: any failure is enough."),
    ] = 0.1
    degraded_minutes: Annotated[
        int, Meta(ge=1, le=59, description="Full minutes, beside the present one, whose executions make that share.")
    ] = 5
