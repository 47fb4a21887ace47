"""Who may ask: bearer tokens with a name and a role, from a file that is read anew when it changes (reliability R4)."""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import stat
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from common.api import Role
from common.clock import Clock
from common.errors import ConfigError

log = logging.getLogger(__name__)

TOKENS_MAX = 1000
TOKEN_CHARS_MIN = 16  # of a token that stands there as text
LOOK_S = 1.0  # between two looks at the file
HASHED = "sha256:"
OWN_FILE = "api.token"
OWN_NAME = "local"
_COMMENT = re.compile(r"(?:^|\s)#")


class Token(NamedTuple):
    """One token, as its SHA-256."""

    name: str
    role: Role
    digest: bytes


def parse_tokens(text: str, file: str) -> list[Token]:
    """Return the tokens of a file. A line is NAME ROLE TOKEN, or TOKEN alone: an operator's; # begins a comment.

    Raises ConfigError with file and line; its text never holds the token.
    """
    found: dict[str, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = _COMMENT.split(line, maxsplit=1)[0].split()
        if not words:
            continue
        if len(words) not in (1, 3):
            raise ConfigError("expected NAME ROLE TOKEN", file=file, line=number)
        name, role, token = words if len(words) == 3 else (OWN_NAME, Role.operator, words[0])
        if role not in Role.__members__:
            raise ConfigError("the role is viewer or operator", file=file, line=number)
        if name in found:
            raise ConfigError(f"the name {name[:64]!r} stands twice", file=file, line=number)
        found[name] = Token(name, Role(role), _digest(token, file, number))
    if not found:
        raise ConfigError("holds no token", file=file)
    if len(found) > TOKENS_MAX:
        raise ConfigError(f"holds {len(found)} tokens, at most {TOKENS_MAX}", file=file)
    return list(found.values())


def _digest(token: str, file: str, line: int) -> bytes:
    if token.startswith(HASHED):
        try:
            digest = bytes.fromhex(token.removeprefix(HASHED))
        except ValueError:
            digest = b""
        if len(digest) != sha256().digest_size:
            raise ConfigError("sha256: is followed by 64 hexadecimal digits", file=file, line=line)
        return digest
    if len(token) < TOKEN_CHARS_MIN:
        raise ConfigError(f"a token has at least {TOKEN_CHARS_MIN} characters", file=file, line=line)
    return sha256(token.encode()).digest()


def own_token_file(data_dir: Path) -> Path:
    """Return the file with a token of this controller's own, made with mode 0600 if it is not there.

    Whoever may read the data directory may so ask the API as an operator, as it may ask the control socket.
    """
    path = data_dir / OWN_FILE
    try:
        if path.exists() and path.stat().st_size:  # an empty one is of a controller that was killed while it made it
            return path
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(f"data_dir: cannot write {path}: {exc.strerror}") from exc
    with open(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return path


class Tokens:
    """The tokens of one file. A file that becomes wrong is told in the log, and the last good tokens stay."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._tokens: list[Token] = []
        self._seen: tuple[int, ...] = ()
        self._looked = 0.0
        self.reloads = 0
        self.reload_failures = 0

    def load(self) -> None:
        """Read the file. Raises ConfigError."""
        self._seen, self._looked = self._stamp(), self._clock.monotonic()
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise ConfigError(f"cloud.api.token_file: cannot read {self._path}: {reason}") from exc
        self._tokens = parse_tokens(text, str(self._path))
        if self._path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            log.warning("%s can be read by others: chmod 600 %s", self._path, self._path)

    def caller(self, header: str) -> Token | None:
        """Return whose token an Authorization header holds, None when nobody's. Every token is compared, in constant
        time, so that the answer's time says nothing.
        """
        self._look()
        scheme, _, given = header.partition(" ")
        digest = sha256(given.strip().encode(errors="replace")).digest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found if scheme.lower() == "bearer" else None

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if self._stamp() == self._seen:
            return
        try:
            self.load()
            self.reloads += 1
            log.info("%s was read anew: %d tokens", self._path, len(self._tokens))
        except ConfigError as exc:
            self.reload_failures += 1
            log.error("%s; the tokens of before stay valid", exc)

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino
