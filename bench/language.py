"""B1, the chain engine: the shapes and sizes of cyfs-gateway's runtime benchmark, over its published medians.

A run is what a host does for one message: ``HookPoint.run`` with the inputs, environments and outcome included. Every
case checks its result before it is timed. The peer's medians (record of 2026-04-24, commit c41b5cf, an i7-13700KF,
Rust in a release build) were taken on a faster machine than this one is likely to be; they are data here, not measured.
Helper blocks stand before the entry block in the same chain, as there, so they also run once by themselves.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from math import exp, log
from typing import Any, NamedTuple

from bench.measure import Row, median
from common.chain.hookpoint import Access, Engine, HookPoint
from common.chain.nodes import BlockSource, ChainSource, LibSource
from common.clock import SystemClock

SIZES = "SML"
SEGMENTS, PAIRS, CANDIDATES, BRANCHES, ENTRIES = (4, 12, 32), (4, 16, 64), (3, 8, 16), (3, 8, 16), (4, 16, 64)
ROUND_S = 0.02
"""CPU time of one round."""
MEAN_MAX = 1 / 3
COLD_MAX_US, CACHED_MAX_US = 1000, 20


class Case(NamedTuple):
    """One shape at one size: its chains, the inputs, the result that must come out, the peer's median."""

    name: str
    lib: LibSource
    result: Any
    peer_us: float
    inputs: Mapping[str, Any]


class Shape(NamedTuple):
    """A shape: ``make(size)`` gives blocks (id -> text) and the expected result; the peer's medians, one a size."""

    name: str
    make: Callable[[int], tuple[dict[str, str], Any]]
    sizes: tuple[int, ...]
    peer_us: tuple[float, ...]
    inputs: Mapping[str, Any] = {}


# -- shapes ------------------------------------------------------------------------------------------------------------


def _one(text: str, result: Any) -> Callable[[int], tuple[dict[str, str], Any]]:
    """A shape of one block and one size."""
    return lambda size: ({"entry": text}, result)


def _route_prefix(size: int) -> tuple[dict[str, str], Any]:
    parts = ["ood1", "admin", *(f"seg{at:02}" for at in range(2, size))]
    text = f"""
        local prefix = "/.cluster/klog"
        local path = "/.cluster/klog/{"/".join(parts)}"
        local tail = $(strip-prefix $path $prefix)
        capture --value parts $(split --skip-empty $tail "/")
        return --from lib $(append $parts[0] "|" $parts[{size // 2}] "|" $parts[{size - 1}])"""
    return {"entry": text}, f"{parts[0]}|{parts[size // 2]}|{parts[-1]}"


HOST_CLASSIFY = """
    capture --value auth $(parse-authority "api.gateway.example.com:8443")
    match-host --capture all --capture-named name $auth.host "{service}.gateway.example.com" || return --from lib "no"
    oneof $auth.port 443 8443 || return --from lib "port"
    return --from lib $(append $name.service "|" $auth.port)"""


def _uri_query(size: int) -> tuple[dict[str, str], Any]:
    pairs = ["redirect_url=%2Fdashboard", "tag=alpha00", "tag=beta01", *(f"k{at:02}=v{at:02}" for at in range(3, size))]
    query = "&".join(pairs)
    text = f"""
        local url = "https://example.com/api/v1?{query}"
        capture --value uri $(parse-uri $url)
        capture --value query $(parse-query $uri.query)
        capture --value redirect $(query-get $query "redirect_url")
        capture --value tag $(query-get $query "tag")
        capture --value rebuilt $(build-query $query)
        capture --value target $(build-uri {{scheme: $uri.scheme, host: $uri.host, path: $uri.path, query: $rebuilt}})
        return --from lib $(append $redirect "|" $tag "|" $target)"""
    return {"entry": text}, f"/dashboard|alpha00|https://example.com/api/v1?{query}"


MATCH_CAPTURE = """
    local route_prefix = "/kapi/v1"
    local path = "/kapi/v1/ood1/admin/logs/today"
    match-path --capture all --capture-named named $path "${route_prefix}/{node}/{plane}/**" || return --from lib "path"
    return --from lib $(append $all[1] "|" $named.plane)"""


def _first_ok(hit: Callable[[int], int]) -> Callable[[int], tuple[dict[str, str], Any]]:
    """Blocks tried through exec, of which the one at ``hit(size)`` succeeds; none where that is 0."""

    def make(size: int) -> tuple[dict[str, str], Any]:
        wanted = hit(size)
        blocks = {
            f"candidate{at:02}": f'strip-prefix "/candidate-{at:02}/payload-{at:02}" "/{_word(at, wanted)}-{at:02}/"'
            for at in range(1, size + 1)
        }
        tried = " ".join(f"$(exec --block {name})" for name in blocks)
        if not wanted:
            blocks["entry"] = f"""
                match-result $(first-ok {tried})
                ok(value)
                    return --from lib $value
                err(value)
                    eq $value "" || return --from lib "value"
                    return --from lib "handled_error"
                end"""
            return blocks, "handled_error"
        blocks["entry"] = f"""
            local tail = $(first-ok {tried})
            eq $tail "payload-{wanted:02}" || return --from lib "tail"
            return --from lib $tail"""
        return blocks, f"payload-{wanted:02}"

    return make


def _word(at: int, wanted: int) -> str:
    return "candidate" if at == wanted else "other"


def _branches(first: str, other: str) -> Callable[[int], tuple[dict[str, str], Any]]:
    """A regular expression, then comparisons of which the last one holds."""

    def make(size: int) -> tuple[dict[str, str], Any]:
        lines = [f'{first} match-reg $host "^admin\\\\." then return --from lib "admin"']
        lines += [f'{other} eq $path "/route-{at:02}" then return --from lib "{at:02}"' for at in range(2, size + 1)]
        head = "case then\n" if first == "when" else ""
        text = f"""
            local host = "www.example.com"
            local path = "/route-{size:02}"
            {head}{chr(10).join(lines)}
            else return --from lib "none"
            end"""
        return {"entry": text}, f"{size:02}"

    return make


MATCH_RESULT = """
    local outer = "kept"
    local calls = ""
    match-result $(capture --value calls $(append $calls "1"))
    ok(outer)
        eq $outer "1" || return --from lib "outer"
        eq $calls "1" || return --from lib "calls"
    err(problem)
        return --from lib $problem
    end
    eq $outer "kept" || return --from lib "restored"
    eq $calls "1" || return --from lib "calls after"
    return --from lib $outer"""


def _literal(size: int) -> tuple[dict[str, str], Any]:
    tags = ", ".join(f'"tag{at:02}"' for at in range(size))
    meta = ", ".join(f'key{at:02}: "value{at:02}"' for at in range(size))
    targets = ", ".join(f'{{node_id: "node{at:02}", port: {8000 + at}}}' for at in range(size))
    last = size - 1
    text = f"""
        local route = {{
            kind: "service", service_id: "svc-main", tags: [{tags}],
            meta: {{region_code: "eu-1", {meta}}}, targets: [{targets}]
        }}
        eq $route.kind "service" || return --from lib "kind"
        eq $route.service_id "svc-main" || return --from lib "service"
        eq $route.meta.region_code "eu-1" || return --from lib "region"
        eq $route.tags[{last}] "tag{last:02}" || return --from lib "tag"
        return --from lib $(append $route.tags[{last}] "|" $route.meta.key{last:02} "|" $route.targets[{last}].node_id
            "|" $route.targets[{last}].port)""".replace('\n            "|"', ' "|"')
    return {"entry": text}, f"tag{last:02}|value{last:02}|node{last:02}|{8000 + last}"


def _invoke(size: int) -> tuple[dict[str, str], Any]:
    tags = ", ".join(f'"tag{at:02}"' for at in range(size))
    meta = ", ".join(f'key{at:02}: "value{at:02}"' for at in range(size))
    last = size - 1
    helper = f"""
        return --from chain {{kind: "service", service_id: $__args.service_id, tags: [{tags}], meta: {{{meta}}}}}"""
    text = f"""
        capture --value payload $(invoke --chain helper --arg service_id "svc-main")
        eq $payload.kind "service" || return --from lib "kind"
        eq $payload.service_id "svc-main" || return --from lib "service"
        eq $payload.tags[{last}] "tag{last:02}" || return --from lib "tag"
        eq $payload.meta.key{last:02} "value{last:02}" || return --from lib "meta"
        return --from lib $(append $payload.service_id "|" $payload.tags[{last}] "|" $payload.meta.key{last:02})"""
    return {"helper/help": helper, "main/entry": text}, f"svc-main|tag{last:02}|value{last:02}"


def _capture_status(size: int) -> tuple[dict[str, str], Any]:
    lines = []
    for at in range(size):
        lines += [
            f'capture --value value --status status --ok ok $(append "seg{at:02}" "")',
            f'eq $value "seg{at:02}" || return --from lib "value"',
            'eq $status "success" || return --from lib "status"',
            'eq $ok true || return --from lib "ok"',
        ]
    lines.append('return --from lib $(append $value "|" $status "|" $ok)')
    return {"entry": "\n".join(lines)}, f"seg{size - 1:02}|success|true"


def _map_reduce(size: int) -> tuple[dict[str, str], Any]:
    adds = "\n".join(f'map-add routes "key{at:02}" "value{at:02}"' for at in range(size))
    last = f"key{size - 1:02}:value{size - 1:02}:key{size - 1:02}:value{size - 1:02}"
    text = f"""
        map-create --block routes
        {adds}
        capture --value last $(map $routes $(append $__key ":" $__value ":" $__key ":" $__value))
        eq $last "{last}" || return --from lib "last"
        return --from lib $last"""
    return {"entry": text}, last


LIST_PATH = 'return --from lib $(append $RECORDS[0].key "|" $RECORDS[1].name "|" $RECORDS[2].key)'
RECORDS = [{"key": "alpha", "name": "first"}, {"key": "beta", "name": "second"}, {"key": "gamma", "name": "third"}]
REQUEST = {"ext": {"url": "https://example.com/a"}, "meta": {"route_prefix": "/kapi"}}

SHAPES = (
    Shape("empty_return", _one('return --from lib "ok"', "ok"), (0,), (1.219,)),
    Shape(
        "var_read_flat", _one("return --from lib $(append $HOST $HOST)", "gateway.example.com" * 2), (0,), (2.975,),
        {"HOST": "gateway.example.com"},
    ),
    Shape(
        "var_read_path",
        _one('return --from lib $(append $REQ.ext.url "|" $REQ.meta.route_prefix)', "https://example.com/a|/kapi"),
        (0,), (3.705,), {"REQ": REQUEST},
    ),
    Shape(
        "list_path_read",
        _one(LIST_PATH, "alpha|second|gamma"),
        (0,), (4.493,), {"RECORDS": RECORDS},
    ),
    Shape("route_prefix", _route_prefix, SEGMENTS, (10.399, 11.541, 14.346)),
    Shape("host_classify", _one(HOST_CLASSIFY, "api|8443"), (0,), (10.559,)),
    Shape("uri_query", _uri_query, PAIRS, (24.516, 31.957, 56.767)),
    Shape("match_capture", _one(MATCH_CAPTURE, "ood1|admin"), (0,), (9.067,)),
    Shape("first_ok_first", _first_ok(lambda size: 1), CANDIDATES, (9.223, 15.441, 25.101)),
    Shape("first_ok_middle", _first_ok(lambda size: size // 2 + 1), CANDIDATES, (10.660, 21.453, 37.108)),
    Shape("first_ok_last", _first_ok(lambda size: size), CANDIDATES, (12.461, 25.689, 47.168)),
    Shape("first_ok_all_fail", _first_ok(lambda size: 0), CANDIDATES, (11.433, 23.656, 42.962)),
    Shape("case_when", _branches("when", "when"), BRANCHES, (5.430, 9.102, 14.402)),
    Shape("if_elif", _branches("if", "elif"), BRANCHES, (5.328, 8.935, 14.279)),
    Shape("match_result", _one(MATCH_RESULT, "kept"), (0,), (8.631,)),
    Shape("literal_access", _literal, ENTRIES, (17.056, 31.523, 81.654)),
    Shape("invoke_helper", _invoke, ENTRIES, (16.302, 21.255, 38.389)),
    Shape("capture_status", _capture_status, ENTRIES, (23.193, 80.348, 305.750)),
    Shape("map_reduce", _map_reduce, ENTRIES, (21.403, 64.182, 230.405)),
)  # fmt: skip


def cases() -> list[Case]:
    """Every shape at every size."""
    made = []
    for shape in SHAPES:
        for size, letter, peer_us in zip(shape.sizes, SIZES, shape.peer_us, strict=False):
            blocks, result = shape.make(size)
            name = f"{shape.name} {letter}" if len(shape.sizes) > 1 else shape.name
            made.append(Case(name, _lib(blocks), result, peer_us, shape.inputs))
    return made


def _lib(blocks: dict[str, str]) -> LibSource:
    """A list; ids are ``block`` in the chain main, or ``chain/block``."""
    chains: dict[str, list[BlockSource]] = {}
    for name, text in blocks.items():
        chain, _, block = name.rpartition("/")
        chains.setdefault(chain or "main", []).append(BlockSource(block, text))
    return LibSource("main", tuple(ChainSource(id, tuple(sources)) for id, sources in chains.items()))


# -- measuring ---------------------------------------------------------------------------------------------------------


def run(rounds: int) -> list[Row]:
    """Measure all cases in turn, ``rounds`` times, and say how each stands to the peer."""
    ready = [(case, _ready(case)) for case in cases()]
    times: dict[str, list[float]] = {case.name: [] for case, _ in ready}
    reference: list[float] = []
    for _ in range(rounds):
        reference.append(_timed(_reference))
        for case, once in ready:
            times[case.name].append(_timed(once))
    rows = [Row("reference: 100 dict reads", median(reference), "us", note="plain Python; it shows a busy machine")]
    ratios = []
    for case, _ in ready:
        value = median(times[case.name])
        ratios.append(value / case.peer_us)
        bar = f"< {case.peer_us:.2f}"
        rows.append(Row(case.name, value, "us", bar, value < case.peer_us, f"{ratios[-1]:.2f} of the peer"))
    mean = exp(sum(map(log, ratios)) / len(ratios))
    rows.append(Row("geometric mean of the ratios", mean, "", "<= 0.33", mean <= MEAN_MAX))
    return rows + _loads(rounds)


def _ready(case: Case) -> Callable[[], Any]:
    """The case as a call, after its result was checked."""
    point = HookPoint("bench", engine=Engine(clock=SystemClock()), inputs=dict.fromkeys(case.inputs, Access.READ_ONLY))
    point.mount(case.lib)
    outcome = point.run(case.inputs)
    if outcome.value != case.result or not outcome.ok:
        raise AssertionError(f"{case.name}: {outcome.value!r} instead of {case.result!r} {outcome.error}")
    inputs, call = case.inputs, point.run
    return lambda: call(inputs)


def _timed(once: Callable[[], Any]) -> float:
    """Microseconds of CPU time of one call."""
    count = _count(once)
    gc.collect()
    gc.disable()
    try:
        best = time.process_time()
        for _ in range(count):
            once()
        spent = time.process_time() - best
        best = time.process_time()
        for _ in range(count):
            _nothing()
        return (spent - (time.process_time() - best)) / count * 1e6
    finally:
        gc.enable()


def _reference() -> int:
    """Work of a fixed size, in which nothing of the engine has a part."""
    given, total = {"a": 1}, 0
    for _ in range(100):
        total += given["a"]
    return total


def _nothing() -> None:
    """What a timed call costs without what it calls."""


def _count(once: Callable[[], Any]) -> int:
    """So many calls take about one round."""
    began = time.process_time()
    for _ in range(100):
        once()
    return max(100, int(ROUND_S / max(1e-6, (time.process_time() - began) / 100)))


BLOCK_LINES = 20
LOADED = "\n".join((
    'match-path --capture-named parts $REQ.path "/apps/{app}/**" || error "no app in path"',
    "APP = $parts.app",
    'match-include $ALLOWED $APP || reject "not permitted"',
    'local host = "node-${REQ.headers.x-node ?? "main"}"',
    'if starts-with $host "node-" && $REQ.method == "GET" then',
    "    tail = $(strip-prefix $REQ.path $parts.app)",
    "elif $REQ.size > 1000 then",
    '    drop "too large"',
    "end",
    "for name, value in $REQ.headers then",
    '    eq $name "x-skip" && continue',
    '    seen = "${seen}${name}=${value};"',
    "end",
    "case $REQ.method as method then",
    'when $method == "PUT" then mode = "write"',
    'when oneof $method "GET" "HEAD" then mode = "read"',
    'else mode = "other"',
    "end",
    'echo "mode ${mode} of ${APP}"',
    'forward "tcp://${host}:${PORT}/${APP}"',
))  # fmt: skip


def _loads(rounds: int) -> list[Row]:
    """Loading a block of 20 lines: parsed and compiled, and a second time from the cache."""
    inputs = dict.fromkeys(("REQ", "ALLOWED", "PORT"), Access.READ_ONLY)
    lib = _lib({"entry": LOADED})
    cold, cached = [], []
    for _ in range(max(5, rounds)):
        point = HookPoint("bench", engine=Engine(), inputs=inputs)
        cold.append(_load_us(point, lib))
        cached += [_load_us(point, lib) for _ in range(10)]
    cold_us, cached_us = median(cold), median(cached)
    return [
        Row(
            "cold load of 20 lines", cold_us, "us", f"<= {COLD_MAX_US}", cold_us <= COLD_MAX_US, "parse, compile, mount"
        ),
        Row("cached load of 20 lines", cached_us, "us", f"<= {CACHED_MAX_US}", cached_us <= CACHED_MAX_US, "mount"),
    ]


def _load_us(point: HookPoint, lib: LibSource) -> float:
    began = time.process_time()
    mounted = point.mount(lib)
    spent = time.process_time() - began
    point.unmount(mounted)
    return spent * 1e6
