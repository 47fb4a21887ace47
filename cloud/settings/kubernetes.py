"""Settings of the Kubernetes source and sink."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class KubernetesSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules from a Kubernetes cluster, and their status back into it (P8.3)."""

    enabled: Annotated[
        bool,
        Meta(description="Take Rule and RuleEndpoint objects as desired state, and write the status of these rules."),
    ] = False
    kubeconfig: Annotated[
        str,
        Meta(description="File that says where the API server is. Empty: the service account of the pod."),
    ] = ""
    context: Annotated[str, Meta(description="Context in that file; empty takes its current one.")] = ""
    namespace: Annotated[
        str, Meta(description="Only the objects of this namespace, which needs less rights. Empty: of all.")
    ] = ""
    timeout_s: Annotated[
        float,
        Meta(gt=0, description="Seconds for one call to the API server, from connecting to the end of the answer."),
    ] = 10.0
    watch_s: Annotated[
        float,
        Meta(ge=1, description="Seconds after which a watch is begun anew: how long a dead connection may go unseen."),
    ] = 120.0
    lease_s: Annotated[
        float,
        Meta(ge=1, description="Seconds after which another controller watches in place of one that says nothing."),
    ] = 15.0
    interval_s: Annotated[
        float,
        Meta(ge=0, description="Seconds between two writes of one rule's status; what changes meanwhile is one write."),
    ] = 1.0
    writes_per_s_max: Annotated[
        float,
        Meta(gt=0, description="Writes of status in a second, of all rules together; the oldest change goes first."),
    ] = 50.0
    errors_max: Annotated[
        int, Meta(ge=0, le=32, description="Distinct errors of a rule in its status, the last ones.")
    ] = 5
