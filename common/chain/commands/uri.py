"""URIs: percent-encoding, parse-uri, build-uri, parse-authority (L8, RFC 3986).

The parsers take what routing needs and refuse what two readers could read differently: blanks, control characters and
backslashes. Like a browser's URL, an http(s), ws(s) or ftp URI gets its path without dot segments, scheme and host in
lower case, and no port where it is the scheme's own.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from common.chain import values
from common.chain.commands.spec import DYNAMIC, BadArgument, Err, Example, Opt, Param, Spec, Static, fault, needed
from common.chain.commands.templates import ascii_lower

PORT_MAX = 65_535
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*")
_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)"
_AUTHORITY = re.compile(rf"(?:([^\x00-\x20\x7f/?#\\@\[\]]*)@)?{_HOST}(?::([0-9]{{1,5}}))?")
_URI = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*):"
    rf"(?://(?:(?:([^/@\[\]]*)@)?{_HOST}(?::([0-9]{{1,5}}))?)?(?=/|\Z)|(?!//))(.*)",
    re.DOTALL,
)
"""What stands before query and fragment, in a text without the characters that no URI has."""
_WITH_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\x00-\x20\x7f\\]*)[^\x00-\x20\x7f\\]*")
_URI_BYTES = bytes(byte for byte in range(0x21, 0x100) if byte not in b"\\\x7f")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_ALWAYS_KEPT = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&()*+,;=%"
_KEPT = {
    "userinfo": _ALWAYS_KEPT + "'",
    "path": _ALWAYS_KEPT + "':@/|^[]",
    "query": _ALWAYS_KEPT + ":@/?|^`{}[]",
    "fragment": _ALWAYS_KEPT + "':@/?|^{}[]",
}
"""What may stand in a part of a URI as it is; the rest is percent-encoded."""
_KEPT_BYTES = {part: kept.encode() for part, kept in _KEPT.items()}
_URI_KEYS = frozenset(
    ("scheme", "authority", "host", "port", "effective_port", "has_port", "username", "password", "path", "query",
     "fragment")
)  # fmt: skip


def shown(text: str) -> str:
    """The text as a message shows it, shortened."""
    return f'"{text}"' if len(text) <= 60 else f'"{text[:57]}..."'


# -- percent-encoding --------------------------------------------------------------------------------------------------


def _url_encode(text: str) -> str:
    return text if _UNRESERVED.fullmatch(text) else quote(text, safe="", errors="replace")


def _url_decode(text: str) -> Any:
    if "%" not in text:
        return text
    if _BROKEN_PERCENT.search(text):
        return fault(f"url_decode: % without two hexadecimal digits in {shown(text)}")
    try:
        return unquote_to_bytes(text.encode("utf-8", "replace")).decode()
    except UnicodeDecodeError:
        return fault(f"url_decode: {shown(text)} is not UTF-8")


# -- authorities -------------------------------------------------------------------------------------------------------


def _parse_authority(text: str, default_port: Any = None) -> Any:
    port = default_port
    if default_port is not None:
        port = _port(default_port)
        if port is None:
            return fault(f"parse-authority: the default port is no port: {shown(values.text(default_port))}")
    return _authority(text, port)


def _authority(text: str, default_port: int | None) -> Any:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return fault(f"parse-authority: {shown(text)} is no authority")
    userinfo, host, digits = found.groups()
    port = default_port
    if digits is not None:
        port = int(digits)
        if port > PORT_MAX:
            return fault(f"parse-authority: port {digits} is above {PORT_MAX}")
    return {"host": host, "port": port, "has_port": digits is not None, "userinfo": userinfo}


def _specialise_authority(static: Static) -> Any:
    """Without a default port, or with a literal one, nothing is left to look at but the text."""
    default = static.options.get("default-port")
    if default is DYNAMIC or static.args[0] is not DYNAMIC:
        return None
    port = None if default is None else _port(default)
    if default is not None and port is None:
        raise BadArgument(f"the default port is no port: {shown(values.text(default))}")
    return lambda text: _authority(text, port)


def _port(value: Any) -> int | None:
    """The port that an Int or a String of digits is, else None."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    return value if type(value) is int and 0 <= value <= PORT_MAX else None


# -- URIs --------------------------------------------------------------------------------------------------------------


def _parse_uri(text: str) -> Any:
    head, hash_, fragment = text.partition("#")
    head, mark, query = head.partition("?")
    found = _URI.fullmatch(head)
    if found is None or text.encode("utf-8", "replace").translate(None, _URI_BYTES):
        return _no_uri(text)
    scheme, userinfo, authority, digits, path = found.groups()
    scheme = scheme.lower()
    default = _DEFAULT_PORTS.get(scheme)
    host = port = password = None
    username = ""
    if authority is not None:
        host = authority = authority.lower()
        if digits is not None:
            port = int(digits)
            if port > PORT_MAX:
                return fault(f"parse-uri: port {digits} is above {PORT_MAX}")
            if port == default:
                port = None
        if userinfo is not None:
            username, colon, secret = userinfo.partition(":")
            password = secret if colon else None
        if userinfo is not None or port is not None:
            authority = _joined(userinfo, host, port)
    elif default is not None:
        return fault(f"parse-uri: a {scheme} URI needs a host")
    if default is not None:
        path = "/" if not path else _without_dots(path) if "/." in path or "%2" in path else path
    return {
        "scheme": scheme, "authority": authority, "host": host, "port": port,
        "effective_port": default if port is None else port, "has_port": port is not None,
        "username": username, "password": password, "path": path,
        "query": query if mark else None, "fragment": fragment if hash_ else None,
    }  # fmt: skip


def _no_uri(text: str) -> Err:
    """The fault of a text that is no URI, or has an authority that is none."""
    found = _WITH_AUTHORITY.fullmatch(text)
    if found is None:
        return fault(f"parse-uri: {shown(text)} is no absolute URI")
    return fault(f"parse-uri: {shown(found[1])} is no authority")


def _joined(userinfo: str | None, host: str, port: int | None) -> str:
    return f"{'' if userinfo is None else userinfo + '@'}{host}{'' if port is None else f':{port}'}"


def _without_dots(path: str) -> str:
    """The path with ``.`` and ``..`` segments applied, also where their dots are percent-encoded (RFC 3986 5.2.4)."""
    made: list[str] = []
    segments = path.split("/")
    for segment in segments[1:]:
        plain = segment.replace("%2e", ".").replace("%2E", ".") if "%" in segment else segment
        if plain == "..":
            del made[-1:]
        elif plain != ".":
            made.append(segment)
    if plain in (".", ".."):
        made.append("")
    return "/" + "/".join(made)


def _build_uri(parts: Any) -> Any:
    if type(parts) is not dict:
        return needed("build-uri", "a Map", parts)
    for key, value in parts.items():
        if key not in _URI_KEYS:
            return fault(f"build-uri: unknown key {shown(key)}")
        if type(value) is not str and value is not None and key not in ("port", "effective_port", "has_port"):
            return fault(f"build-uri: {key} must be a String")
    get = parts.get
    scheme = (get("scheme") or "").lower()
    if scheme not in _DEFAULT_PORTS and not _SCHEME.fullmatch(scheme):
        return fault(f"build-uri: {shown(scheme)} is no scheme")
    authority = _build_authority(scheme, parts)
    if isinstance(authority, Err):
        return authority
    path, query, fragment = get("path") or "", get("query"), get("fragment")
    if authority is not None:
        if path[:1] != "/" and (path or scheme in _DEFAULT_PORTS):
            path = "/" + path
        start = f"{scheme}://{authority}"
    else:
        start = f"{scheme}:" if path[:2] != "//" else f"{scheme}:/."  # two slashes would begin an authority
    made = start + _encoded(path, "path")
    if query is not None:
        made += "?" + _encoded(query, "query")
    return made if fragment is None else f"{made}#{_encoded(fragment, 'fragment')}"


def _build_authority(scheme: str, parts: dict[str, Any]) -> Any:
    """The authority of the parts, None without one, or a fault."""
    host, authority, port = parts.get("host"), parts.get("authority"), parts.get("port")
    username, password = parts.get("username") or "", parts.get("password")
    if not host and (port is not None or (not authority and (username or password is not None))):
        return fault("build-uri: username, password and port need a host")
    if host:
        number = None
        if port is not None:
            number = _port(port)
            if number is None:
                return fault(f"build-uri: {shown(values.text(port))} is no port")
        userinfo = None
        if username or password is not None:
            secret = "" if password is None else ":" + _encoded(password, "userinfo")
            userinfo = _encoded(username, "userinfo") + secret
        authority = _joined(userinfo, ascii_lower(host), None if number == _DEFAULT_PORTS.get(scheme) else number)
    if not authority:
        return fault(f"build-uri: a {scheme} URI needs a host") if scheme in _DEFAULT_PORTS else None
    if not _AUTHORITY.fullmatch(authority):
        return fault(f"build-uri: {shown(authority)} is no authority")
    return authority


def _encoded(text: str, part: str) -> str:
    """The text with everything percent-encoded that may not stand in this part of a URI; what is encoded stays."""
    if not text.encode("utf-8", "replace").translate(None, _KEPT_BYTES[part]):
        return text
    return quote(text, safe=_KEPT[part], errors="replace")


# -- specs -------------------------------------------------------------------------------------------------------------

URL_ENCODE = Spec(
    "url_encode",
    "uri",
    "Percent-encode a text; letters, digits and `- . _ ~` stay.",
    params=(Param("text", "The text.", type="text"),),
    ok="a String",
    examples=(Example('url_encode "a b/é"', "a%20b%2F%C3%A9"), Example('url_encode "a-b.c_d~e"', "a-b.c_d~e")),
    call=_url_encode,
    grows=True,
)

URL_DECODE = Spec(
    "url_decode",
    "uri",
    "Undo percent-encoding; `+` stays what it is.",
    params=(Param("text", "The text.", type="text"),),
    ok="a String",
    faults="a `%` without two hexadecimal digits, bytes that are not UTF-8",
    examples=(
        Example('url_decode "a%20b+c"', "a b+c"),
        Example('url_decode "100%"', 'url_decode: % without two hexadecimal digits in "100%"', ok=False),
        Example('url_decode "%ff"', 'url_decode: "%ff" is not UTF-8', ok=False),
    ),
    call=_url_decode,
)

PARSE_AUTHORITY = Spec(
    "parse-authority",
    "uri",
    "Take `[userinfo@]host[:port]` apart. An IPv6 host keeps its brackets; userinfo stays encoded.",
    params=(Param("text", "The authority.", type="text"),),
    options=(Opt("default-port", "The port where the text has none.", type="int"),),
    ok="a Map: host, port (Int or Null), has_port (true when the text has one), userinfo (String or Null)",
    faults="no authority, a port above 65535",
    examples=(
        Example('a = $(parse-authority "api.example.com:8443"); p = $a.port', 8443),
        Example('a = $(parse-authority --default-port 80 "u:p@[::1]"); p = "$(append $a.host) ${a.port}"', "[::1] 80"),
        Example('parse-authority "http://x"', 'parse-authority: "http://x" is no authority', ok=False),
    ),
    aliases=("parse-auth",),
    call=_parse_authority,
    specialise=_specialise_authority,
)

PARSE_URI = Spec(
    "parse-uri",
    "uri",
    "Take an absolute URI apart. Scheme and host come in lower case; an http, https, ws, wss or ftp URI comes without"
    " its default port and without dot segments in its path. Nothing is percent-decoded.",
    params=(Param("text", "The URI.", type="text"),),
    ok="a Map: scheme, authority, host, port, effective_port, has_port, username, password, path, query, fragment;"
    " what is absent is Null (username: empty)",
    faults="no absolute URI, blanks, control characters or backslashes in it, a port above 65535",
    examples=(
        Example('u = $(parse-uri "HTTPS://Example.com/a/../b?q=1"); x = "${u.host} ${u.path} ${u.query}"',
                "example.com /b q=1"),
        Example('u = $(parse-uri "https://x:8443/"); p = $u.effective_port', 8443),
        Example('parse-uri "/only/a/path"', 'parse-uri: "/only/a/path" is no absolute URI', ok=False),
    ),
    call=_parse_uri,
)  # fmt: skip

BUILD_URI = Spec(
    "build-uri",
    "uri",
    "Make a URI of its parts: scheme, host (or authority), port, username, password, path, query, fragment."
    " effective_port and has_port are ignored, so that the map of parse-uri can be given. What may not stand in a part"
    " is percent-encoded, what is encoded stays.",
    params=(Param("parts", "The parts.", type="map"),),
    ok="a String",
    faults="no Map, an unknown key, a part of a wrong type, no scheme, no host where the scheme needs one",
    examples=(
        Example('build-uri {"scheme": "https", "host": "example.com", "path": "/a b", "query": "x=1"}',
                "https://example.com/a%20b?x=1"),
        Example('build-uri $(parse-uri "http://u:p@x:8080/p#f")', "http://u:p@x:8080/p#f"),
        Example('build-uri {"host": "example.com"}', 'build-uri: "" is no scheme', ok=False),
    ),
    call=_build_uri,
    grows=True,
)  # fmt: skip

SPECS = (URL_ENCODE, URL_DECODE, PARSE_AUTHORITY, PARSE_URI, BUILD_URI)
