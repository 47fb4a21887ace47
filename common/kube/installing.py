"""Install our resource types, without taking another product's unasked (protocol P8.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from common.errors import ConfigError, KubeError
from common.kube.client import KubeClient, Object
from common.kube.resources import CRDS, ENDPOINTS, PART_OF, PRODUCT, RULES, definition

ESTABLISHED_S = 30.0  # until a new type must be served
POLL_S = 0.2

CREATED, UPDATED, UNCHANGED, ADOPTED = "created", "updated", "unchanged", "adopted"


class Installed(NamedTuple):
    """A definition, and what was done with it: created, updated, unchanged or adopted."""

    name: str
    done: str


async def install(client: KubeClient, *, adopt: bool = False, poll_s: float = POLL_S) -> list[Installed]:
    """Bring our definitions into the cluster and wait until it serves them. Existing objects stay as they are.

    Raises ConfigError, before anything was changed, when a definition of that name is not ours and ``adopt`` is False;
    KubeError for what the API server refuses.
    """
    wanted = [definition(resource) for resource in (RULES, ENDPOINTS)]
    found = [await _find(client, _name(value)) for value in wanted]
    foreign = [_name(value) for value, there in zip(wanted, found, strict=True) if there and not _ours(there)]
    if foreign and not adopt:
        raise ConfigError(
            f"{', '.join(foreign)} is there and not of fieldpost (KubeEdge's?): its definition would be replaced, its "
            "objects stay; add --adopt if you want that"
        )
    done = [await _bring(client, value, there) for value, there in zip(wanted, found, strict=True)]
    for value in wanted:
        await _established(client, _name(value), poll_s)
    return done


def _name(value: Object) -> str:
    return str(value["metadata"]["name"])


def _ours(value: Object) -> bool:
    labels = value["metadata"].get("labels") or {}
    return bool(labels.get(PART_OF) == PRODUCT)


async def _find(client: KubeClient, name: str) -> Object | None:
    try:
        return await client.get(f"{CRDS}/{name}")
    except KubeError as exc:
        if exc.code == 404 and exc.named:
            return None
        raise


async def _bring(client: KubeClient, wanted: Object, there: Object | None) -> Installed:
    name = _name(wanted)
    if there is None:
        await client.create(CRDS, wanted)
        return Installed(name, CREATED)
    if _ours(there) and not any(_differences(wanted["spec"], there["spec"])):
        return Installed(name, UNCHANGED)
    metadata = there["metadata"]
    labels = {**(metadata.get("labels") or {}), **wanted["metadata"]["labels"]}
    # Conversion and the like, which the server filled in, stay; what another product asked for does not.
    value = {**wanted, "metadata": {**metadata, "labels": labels}}
    await client.replace(f"{CRDS}/{name}", value)
    return Installed(name, UPDATED if _ours(there) else ADOPTED)


def _differences(wanted: object, there: object, path: str = "") -> Iterator[str]:
    """Where ``there`` lacks what is wanted. What the server added by itself is no difference."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        for key, value in wanted.items():
            yield from _differences(value, there.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        for index, (value, other) in enumerate(zip(wanted, there, strict=True)):
            yield from _differences(value, other, f"{path}[{index}]")
    elif wanted != there:
        yield path


async def _established(client: KubeClient, name: str, poll_s: float) -> None:
    try:
        async with asyncio.timeout(ESTABLISHED_S):
            while True:
                value = await client.get(f"{CRDS}/{name}")
                conditions = {c["type"]: c for c in (value.get("status") or {}).get("conditions") or ()}
                if conditions.get("Established", {}).get("status") == "True":
                    return
                refused = conditions.get("NamesAccepted", {})
                if refused.get("status") == "False":
                    raise KubeError(f"{name}: {refused.get('message') or 'its names are taken'}", code=409)
                await asyncio.sleep(poll_s)
    except TimeoutError as exc:
        raise KubeError(f"{name} is not served {ESTABLISHED_S:g} s after it was installed") from exc
