"""How to reach an API server: from within a cluster (service account), or by a kubeconfig file."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from common.errors import ConfigError
from common.messaging.child import is_loopback
from common.resource import DEFAULT_NAMESPACE
from common.yamlnodes import compose, plain, read_text

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_S = 60.0  # a token file is read again after so long: Kubernetes replaces it before it expires
_NO_PLUGIN = "user {!r} signs in by {}, which is not done here: use a token, a token file or a client certificate"


class Access(NamedTuple):
    """Where the API server is and how to sign in. ``namespace`` is the one of the service account or context.

    ``ca`` is PEM text (empty: the system's authorities), ``certificate`` and ``key`` likewise; ``token_file`` is read
    again and again, ``token`` is fixed. ``verify`` False is only by the kubeconfig's own word.
    """

    server: str
    namespace: str = DEFAULT_NAMESPACE
    ca: str = ""
    token: str = ""
    token_file: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True
    tls_name: str = ""

    def __repr__(self) -> str:
        return f"Access({self.server!r})"  # the rest is secret

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context, None for plain HTTP. Blocks. Raises ConfigError for a certificate or key that is none."""
        if not self.server.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
            if self.certificate:
                _load_chain(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError, OSError) as exc:
            raise ConfigError(f"certificates for {self.server} cannot be used: {exc}") from exc
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def _load_chain(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Python's ssl takes a client certificate from a file only: it is gone before this returns."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # made with mode 0600
        file.write(certificate.rstrip("\n") + "\n" + key)
        file.flush()
        context.load_cert_chain(file.name)


class Token:
    """The bearer token: of a file it is read again every TOKEN_S seconds, and at once when ``renew`` was called."""

    def __init__(self, access: Access, monotonic: Callable[[], float]) -> None:
        self._access, self._monotonic = access, monotonic
        self._text, self._read_at = access.token, -TOKEN_S

    def renew(self) -> bool:
        """The server refused it. True when reading it again may help."""
        self._read_at = -TOKEN_S
        return bool(self._access.token_file)

    def text(self) -> str:
        """The token, empty when there is none. An unreadable file leaves the last one; at first it is a ConfigError."""
        if self._access.token_file and self._monotonic() - self._read_at >= TOKEN_S:
            try:
                self._text = read_text(self._access.token_file).strip()
            except ConfigError:
                if not self._text:
                    raise
            self._read_at = self._monotonic()
        return self._text


def find_access(kubeconfig: str = "", context: str = "", environ: Mapping[str, str] = os.environ) -> Access:
    """Return how to reach the API server: by the file ``kubeconfig``, else from within the cluster.

    Raises ConfigError when neither is there, or what is there cannot be used; the text says what to do.
    """
    return read_kubeconfig(kubeconfig, context) if kubeconfig else in_cluster(environ)


def in_cluster(environ: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> Access:
    """Return the access of a pod's service account. Raises ConfigError outside of a cluster."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set): name a kubeconfig file")
    token = account / "token"
    if not token.is_file():
        raise ConfigError(f"the pod has no service account token in {account}: do not switch automounting off")
    namespace = account / "namespace"
    return Access(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        read_text(str(namespace)).strip() if namespace.is_file() else DEFAULT_NAMESPACE,
        ca=read_text(str(account / "ca.crt")),
        token_file=str(token),
    )


def read_kubeconfig(file: str, context: str = "") -> Access:
    """Return the access that a kubeconfig's ``context`` (empty: its current one) means. Raises ConfigError."""
    roots = compose(read_text(file), file)
    config = plain(roots[0], file) if roots else None
    if not isinstance(config, dict):
        raise ConfigError("is no kubeconfig", file=file)
    wanted = context or str(config.get("current-context") or "")
    if not wanted:
        raise ConfigError("names no current-context: say which context", file=file)
    chosen = _named(config, "contexts", "context", wanted, file)
    cluster = _named(config, "clusters", "cluster", str(chosen.get("cluster", "")), file)
    user = _named(config, "users", "user", str(chosen["user"]), file) if chosen.get("user") else {}
    for plugin in ("exec", "auth-provider", "username"):
        if user.get(plugin):
            raise ConfigError(_NO_PLUGIN.format(chosen["user"], plugin), file=file)
    server = str(cluster.get("server") or "").rstrip("/")
    if "@" in server:
        raise ConfigError(
            f"server of context {wanted!r} holds a user or password, and URLs are shown in logs", file=file
        )
    try:
        parts = urlsplit(server)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"server {server!r} of context {wanted!r} is no URL", file=file)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(f"server {server!r} is plain HTTP, where anybody on the way can read and change", file=file)
    directory = Path(file).parent
    token_file = str(user.get("tokenFile") or "")
    return Access(
        server,
        str(chosen.get("namespace") or DEFAULT_NAMESPACE),
        ca=_text_of(cluster, "certificate-authority", directory, file),
        token="" if token_file else str(user.get("token") or ""),
        token_file=str(directory / token_file) if token_file else "",
        certificate=_text_of(user, "client-certificate", directory, file),
        key=_text_of(user, "client-key", directory, file),
        verify=cluster.get("insecure-skip-tls-verify") is not True,
        tls_name=str(cluster.get("tls-server-name") or ""),
    )


def _named(config: dict[str, Any], part: str, inner: str, name: str, file: str) -> dict[str, Any]:
    found = config.get(part)
    entries = found if isinstance(found, list) else []
    for entry in entries:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(inner), dict):
            value: dict[str, Any] = entry[inner]
            return value
    names = ", ".join(str(entry.get("name")) for entry in entries if isinstance(entry, dict))
    raise ConfigError(f"has no {inner} {name!r} in {part}; there are: {names or 'none'}", file=file)


def _text_of(part: dict[str, Any], name: str, directory: Path, file: str) -> str:
    """PEM text: base64 in ``<name>-data``, which wins, or the file ``<name>``; empty when neither is given."""
    if data := part.get(f"{name}-data"):
        try:
            return base64.b64decode(str(data), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise ConfigError(f"{name}-data is not base64 of PEM text", file=file) from exc
    return read_text(str(directory / str(part[name]))) if part.get(name) else ""
