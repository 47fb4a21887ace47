"""A real API server with its etcd, thrown away at the end. ``KUBEBUILDER_ASSETS`` names the directory of both programs,
as for envtest of the Go world; without it nothing is started, and tests that want it are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.kube.access import Access
from common.messaging.child import dies_with_parent
from tests.support.wait import free_port

ASSETS = "KUBEBUILDER_ASSETS"
NO_SERVER = f"{ASSETS} names no directory with kube-apiserver and etcd (setup-envtest fetches them)"
START_TIMEOUT_S = 90.0
TOKEN = "tester"


def find_assets() -> Path | None:
    """The directory with both programs."""
    directory = Path(os.environ.get(ASSETS, ""))
    programs = [directory / name for name in ("etcd", "kube-apiserver")]
    return directory if os.environ.get(ASSETS) and all(shutil.which(program) for program in programs) else None


@contextmanager
def real_api(directory: Path) -> Iterator[Access]:
    """A server in ``directory``, for somebody who may do everything. It signs its certificate itself: not verified."""
    assets = find_assets()
    if assets is None:
        pytest.skip(NO_SERVER)
    etcd, peer, port = free_port(), free_port(), free_port()
    key, tokens = directory / "accounts.key", directory / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text(f"{TOKEN},tester,tester,system:masters\n")
    commands = [
        [
            str(assets / "etcd"), "--data-dir", str(directory / "etcd"),
            "--listen-client-urls", f"http://127.0.0.1:{etcd}", "--advertise-client-urls", f"http://127.0.0.1:{etcd}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
        ],
        [
            str(assets / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={directory / 'certificates'}",
            f"--token-auth-file={tokens}", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount", "--service-account-issuer=https://fieldpost.test",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
        ],
    ]  # fmt: skip
    running = [_start(command, directory) for command in commands]
    try:
        yield Access(f"https://127.0.0.1:{port}", token=TOKEN, verify=False)
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def _start(command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
    with (directory / f"{Path(command[0]).name}.log").open("wb") as log:
        return subprocess.Popen(dies_with_parent(command), stdout=log, stderr=log)
