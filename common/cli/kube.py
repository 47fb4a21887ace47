"""``fieldpost kube``: what is to be done in a Kubernetes cluster once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

kube = typer.Typer(help="Prepare a Kubernetes cluster.", no_args_is_help=True, rich_markup_mode=None)


@kube.callback()
def _group() -> None:
    """Keeps ``install`` a command of its own while it is the only one."""


@kube.command("install")
def install(
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Replace definitions of these names that are not of fieldpost.")
    ] = False,
    kubeconfig: Annotated[
        str, typer.Option("--kubeconfig", help="File; default $KUBECONFIG, ~/.kube/config, or the pod's account.")
    ] = "",
    context: Annotated[str, typer.Option("--context", help="Context in the file; default its current one.")] = "",
) -> None:
    """Install the types Rule and RuleEndpoint over the API. Example: fieldpost kube install"""
    from common.clock import SystemClock
    from common.kube.access import find_access
    from common.kube.client import KubeClient
    from common.kube.installing import Installed
    from common.kube.installing import install as bring

    home = Path.home() / ".kube" / "config"
    file = kubeconfig or os.environ.get("KUBECONFIG", "") or (str(home) if home.is_file() else "")

    async def work() -> list[Installed]:
        client = KubeClient(find_access(file, context), SystemClock())
        try:
            return await bring(client, adopt=adopt)
        finally:
            await client.close()

    for name, done in asyncio.run(work()):
        print(f"customresourcedefinition {name} {done}")
