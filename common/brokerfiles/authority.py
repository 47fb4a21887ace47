"""The certificate authority of a fleet: its key, certificates of the broker and of clients, and the revocation list.

The one importer of ``cryptography``. Keys are on the curve P-256, which every TLS library of the field can do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from common.brokerfiles.files import read_text, write_private
from common.clock import Clock
from common.errors import ConfigError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as exc:
    raise ConfigError("making certificates needs the extra broker: pip install 'fieldpost[broker]'") from exc

AUTHORITY_DAYS = 3650
BACKDATED_S = 300  # a client whose clock is a little behind takes a new certificate, too


class Issued(NamedTuple):
    """A certificate with its key, both PEM; ``serial`` is hexadecimal, ``not_after`` unix seconds."""

    certificate: bytes
    key: bytes
    serial: str
    not_after: int


class Authority:
    """The authority in ``directory``; made at the first use, then read.

    Raises ConfigError when its files cannot be read or written.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._clock = clock
        key_file, self.file = directory / "ca.key", directory / "ca.pem"
        if not key_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(key_file, _pem(key))
        try:
            key_ = serialization.load_pem_private_key(key_file.read_bytes(), None)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"is no private key of an authority: {exc}", file=str(key_file)) from exc
        if not isinstance(key_, ec.EllipticCurvePrivateKey):
            raise ConfigError("is a key of another kind than elliptic curves", file=str(key_file))
        self._key = key_
        if not read_text(self.file):
            write_private(self.file, self._own())
        try:
            self.certificate = self.file.read_bytes()
            self._issuer = x509.load_pem_x509_certificate(self.certificate)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"is no certificate of an authority: {exc}", file=str(self.file)) from exc

    def server(self, hosts: Sequence[str], days: int, *, peer: bool = False) -> Issued:
        """Return a certificate for a broker that is reached by these names and addresses.

        ``peer``: one for the connections among the servers of a cluster, where each is client and server.
        """
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if peer else [])]
        return self._issue("fieldpost cluster" if peer else hosts[0][:64], days, uses, names)

    def client(self, name: str, days: float) -> Issued:
        """Return a certificate whose common name is the user name; ``days`` may be negative: one that has expired."""
        return self._issue(name, days, [ExtendedKeyUsageOID.CLIENT_AUTH], [])

    def revocations(self, revoked: Sequence[tuple[str, int]]) -> bytes:
        """Return the list of revoked certificates, given as (serial, unix seconds)."""
        now = self._now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._issuer.subject)
            .last_update(now - timedelta(seconds=BACKDATED_S))
            .next_update(now + timedelta(days=AUTHORITY_DAYS))  # an outdated list would lock everybody out
        )
        for serial, when in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(serial, 16))
                .revocation_date(datetime.fromtimestamp(when, UTC))
                .build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(int(self._clock.time()), UTC)

    def _own(self) -> bytes:
        name, now = _name("fieldpost authority"), self._now()
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=BACKDATED_S))
            .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    def _issue(
        self, name: str, days: float, uses: list[x509.ObjectIdentifier], alternatives: list[x509.GeneralName]
    ) -> Issued:
        key, now = ec.generate_private_key(ec.SECP256R1()), self._now()
        end = now + timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - timedelta(seconds=BACKDATED_S))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return Issued(
            made.public_bytes(serialization.Encoding.PEM), _pem(key), f"{made.serial_number:x}", int(end.timestamp())
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
