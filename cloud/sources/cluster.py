"""One controller's side of a Kubernetes cluster: the source, under its lease, and the sink for the forwarders."""

from __future__ import annotations

from collections.abc import Callable

from cloud.forwarders.kubernetes import KubernetesSink
from cloud.settings import KubernetesSettings
from cloud.sources.desired import Desired
from cloud.sources.kubernetes import KubernetesSource
from cloud.sources.leading import HeldLease, Leading, OnChange
from cloud.sources.wanted import Changes, WantedInStore
from cloud.stores.base import Store
from cloud.stores.leases import Lease
from common.clock import Clock
from common.kube.access import find_access
from common.kube.client import KubeClient
from common.tasks import Tasks

LEASE = "kubernetes-source"  # name of the lease


def cluster_of(settings: KubernetesSettings, changes: Changes, store: Store, clock: Clock, controller: str) -> Cluster:
    """Return the Cluster of a controller, with desired state and lease in ``store``. Raises ConfigError as Cluster."""

    def lease(on_change: OnChange) -> Lease:
        return Lease(store, LEASE, controller, settings.lease_s, on_change=on_change, clock=clock)

    return Cluster(settings, WantedInStore(changes, store), clock, lease)


class Cluster:
    """Runs from ``start`` to ``stop``. ``sink`` is for the forwarders, who start and stop it.

    Arguments: ``desired`` is where objects go; ``make_lease`` makes the lease LEASE, given what to call at a change.
    Raises ConfigError when it is not known how to reach the cluster.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        desired: Desired,
        clock: Clock,
        make_lease: Callable[[OnChange], HeldLease],
    ) -> None:
        access = find_access(settings.kubeconfig, settings.context)
        self._client = KubeClient(access, clock, settings.timeout_s)
        self.sink = KubernetesSink(KubeClient(access, clock, settings.timeout_s), settings, clock)
        self._source = KubernetesSource(self._client, desired, settings, clock)
        self._leading = Leading(self._source.run, make_lease)
        self._tasks = Tasks("kubernetes")

    async def start(self) -> None:
        """Begin to watch, now or when the lease is free. A cluster that cannot be reached is tried again and again."""
        self._tasks.start("source", self._leading.run)

    async def stop(self) -> None:
        """End, and give the lease back."""
        await self._tasks.stop()
        await self._client.close()

    def statistics(self) -> dict[str, int]:
        """Counters and gauges of the source, its calls with ``api_`` before, and of the sink with ``sink_`` before."""
        calls = {f"api_{name}": value for name, value in self._client.statistics().items()}
        sink = {f"sink_{name}": value for name, value in self.sink.statistics().items()}
        return {**self._source.statistics(), "restarts": self._tasks.restarts, **calls, **sink}
