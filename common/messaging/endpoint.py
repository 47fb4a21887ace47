"""From broker settings to what a connection needs: addresses, TLS context, password. Every fault is a ConfigError."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from common.errors import ConfigError
from common.settings import BrokerSettings, TlsSettings

_PORTS = {"mqtt": 1883, "mqtts": 8883}


class Endpoint(NamedTuple):
    """One address of a broker."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_endpoints(url: str) -> tuple[Endpoint, ...]:
    """Parse ``mqtt[s]://HOST[:PORT]``, or several with commas between them for fail-over (P5.12).

    Raises ConfigError; a password in the URL is refused without being repeated.
    """
    endpoints = tuple(_parse_one(part.strip()) for part in url.split(",") if part.strip())
    if not endpoints:
        raise ConfigError("broker url is empty; expected mqtt://HOST:PORT or mqtts://HOST:PORT")
    return endpoints


def _parse_one(url: str) -> Endpoint:
    if "@" in url:
        raise ConfigError("broker url holds a user or password; use username and password_file instead")
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ConfigError(f"broker url {url!r}: {exc}") from None
    if parts.scheme not in _PORTS:
        raise ConfigError(f"broker url {url!r}: expected mqtt://HOST:PORT or mqtts://HOST:PORT")
    try:
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if not port:
            raise ValueError
    except ValueError:
        raise ConfigError(f"broker url {url!r}: the port is not a number from 1 to 65535") from None
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"broker url {url!r}: expected a host and nothing after the port")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ConfigError(f"broker url {url!r}: {parts.hostname!r} cannot be a host name") from None
    return Endpoint(parts.hostname, port, parts.scheme == "mqtts")


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and loopback addresses; a name that only resolves to one does not count."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tls_context(settings: TlsSettings, endpoint: Endpoint) -> ssl.SSLContext | None:
    """Return the context for one connection, None without TLS. Made anew each time, so renewed certificates are used.

    Raises ConfigError: a file is missing or unreadable, or ``insecure`` is set for a host that is not loopback.
    """
    if not endpoint.tls:
        return None
    if settings.insecure and not is_loopback(endpoint.host):
        raise ConfigError(f"broker.tls.insecure is for loopback only, not for {endpoint.host}; give ca_file instead")
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
    except (OSError, ValueError) as exc:
        files = ", ".join(name for name in (settings.ca_file, settings.cert_file, settings.key_file) if name)
        raise ConfigError(f"broker.tls: cannot use {files or 'the system authorities'}: {exc}") from exc
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def read_password(settings: BrokerSettings) -> str:
    """Return the password of now: the file's content without its last line end, or the setting.

    Raises ConfigError when the file cannot be read; the text never holds the password.
    """
    if not settings.password_file:
        return settings.password
    try:
        return Path(settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"broker.password_file cannot be read: {exc}", file=settings.password_file) from exc
