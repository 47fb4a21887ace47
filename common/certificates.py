"""When certificates end: the one thing that must be read out of a PEM file before OpenSSL refuses it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from common.errors import ConfigError

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17
_BEFORE_VALIDITY = 3  # serial number, algorithm and issuer


def earliest_end(file: str | Path) -> float:
    """Return when the first certificate of a PEM file ends, in unix seconds. Raises ConfigError."""
    try:
        text = Path(file).read_text(encoding="ascii", errors="replace")
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=str(file)) from exc
    found = []
    for part in text.split(_BEGIN)[1:]:
        try:
            der = ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{part.partition(_END)[0]}{_END}")
            found.append(not_after(der))
        except (ValueError, IndexError) as exc:
            raise ConfigError(f"holds a certificate that cannot be read: {exc}", file=str(file)) from exc
    if not found:
        raise ConfigError("holds no certificate", file=str(file))
    return min(found)


def not_after(der: bytes) -> float:
    """Return when a certificate in DER ends, in unix seconds (RFC 5280, 4.1). Raises ValueError."""
    _, certificate, _ = _element(der, 0)
    _, at, _ = _element(der, certificate)
    tag, _, end = _element(der, at)
    if tag == _VERSION:
        at = end
    for _ in range(_BEFORE_VALIDITY):
        _, _, at = _element(der, at)
    tag, validity, _ = _element(der, at)
    if tag != _SEQUENCE:
        raise ValueError("no validity where it should be")
    _, _, second = _element(der, validity)
    tag, begin, end = _element(der, second)
    text = der[begin:end].decode("ascii")
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag at ``at``, and where its content begins and ends."""
    tag, length, at = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(der[at : at + size], "big"), at + size
    if at + length > len(der):
        raise ValueError("it is cut off")
    return tag, at, at + length
