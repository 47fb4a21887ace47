"""Passwords of broker users: made here, never chosen, and never in an argument (reliability R4)."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode

PASSWORD_BYTES = 32  # of randomness: no iteration count has to make up for a weak one
ITERATIONS = 101  # Mosquitto's own; it runs them on its only thread at every connect
_SALT_BYTES = 12
_HASH_BYTES = 64


def new_password() -> str:
    """Return a random password of letters, digits, ``-`` and ``_``."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def mosquitto_hash(password: str, salt: bytes = b"") -> str:
    """Return the password as it stands in a Mosquitto password file: ``$7$`` is PBKDF2 with SHA-512.

    ``salt`` is random unless given. Mosquitto 2.0 writes this format, 2.1 still reads it.
    """
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS, _HASH_BYTES)
    return f"$7${ITERATIONS}${b64encode(salt).decode()}${b64encode(made).decode()}"


def emqx_hash(password: str, salt: str = "") -> tuple[str, str]:
    """Return (hash, salt) for EMQX's built-in users with ``sha256`` and the salt as suffix."""
    salt = salt or secrets.token_hex(_SALT_BYTES)
    return hashlib.sha256((password + salt).encode()).hexdigest(), salt
