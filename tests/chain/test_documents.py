"""The design document's own examples, verbatim or with the smallest change that L14 names, and its process model.

The document writes bare words where it means variables (``eq nodeid thisnode``); here they are written ``$nodeid``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from common.chain.hookpoint import Access, Engine, HookPoint
from common.chain.loader import load_yaml
from tests.chain.program import Program
from tests.chain.running import Seen, block, chains, run_engine, run_oracle


def run(text: str, inputs: dict[str, Any] | None = None, seed: int | None = None) -> Seen:
    """Run a YAML text on the engine and on the oracle, which must agree."""
    main, libs = chains(text)
    program = Program(main, libs, inputs or {}, seed=seed)
    seen, error = run_engine(program)
    assert seen == run_oracle(program), error
    return seen


# -- L14, as written ---------------------------------------------------------------------------------------------------

L14 = """
main:
  blocks:
    default:
      block: |
        exec parse_app || reject
        exec permit_check || echo "not permitted: ${APP}" && reject
        exec select_node || reject
        forward "${upstream}"
    parse_app:
      run: false
      block: |
        match-path --capture-named parts $REQ.path "/apps/{app}/**" || error "no app in path"
        APP=$parts.app
    permit_check:
      run: false
      block: match-include $ALLOWED $APP
    select_node:
      run: false
      block: |
        node=$(choice $NODES) || error "no node"
        eq $node $THIS_NODE && upstream="tcp://_/${PORT}" && return
        upstream="rtcp://${node}/:${PORT}"
"""
HOST = {"REQ": {"path": "/apps/mail/inbox"}, "ALLOWED": ["mail"], "NODES": ["n1"], "THIS_NODE": "n1", "PORT": 80}


@pytest.mark.parametrize(
    ("changed", "verb", "target", "echo"),
    [
        ({}, "forward", "tcp://_/80", []),
        ({"NODES": ["n2"]}, "forward", "rtcp://n2/:80", []),
        ({"NODES": {"n1": 0, "n2": 3}}, "forward", "rtcp://n2/:80", []),
        ({"NODES": []}, "reject", "", []),
        ({"ALLOWED": ["other"]}, "reject", "", ["not permitted: mail"]),
        ({"ALLOWED": {"mail": True}}, "forward", "tcp://_/80", []),
        ({"REQ": {"path": "/other"}}, "reject", "", []),
    ],
)  # fmt: skip
def test_l14(changed: dict[str, Any], verb: str, target: str, echo: list[str]) -> None:
    """The design's example decides as it says for each of its branches."""
    indented = "\n".join(f"  {line}" for line in L14.strip().split("\n"))
    seen = run(f"main:\n{indented}\n", HOST | changed)
    assert (seen.verb, seen.target, seen.echo, seen.ok) == (verb, target, echo, True)


# -- the document's snippets -------------------------------------------------------------------------------------------

GATEWAY = """
main:
  gateway:
    blocks:
      main:
        block: |
          exec parse_appid
          exec permit_check
          exec forward_to_service
          exec forward_to_app
      parse_appid: {run: false, block: 'app=$REQ.app'}
      permit_check: {run: false, block: 'match-include $ALLOWED $app || reject "not permitted"'}
      forward_to_service: {run: false, block: 'starts-with $REQ.path "/kapi/" && server "kernel"'}
      forward_to_app: {run: false, block: 'forward "app://${app}"'}
"""


@pytest.mark.parametrize(
    ("app", "path", "verb", "target"),
    [
        ("mail", "/x", "forward", "app://mail"),
        ("mail", "/kapi/x", "server", "kernel"),
        ("other", "/kapi/x", "reject", "not permitted"),
    ],
)
def test_four_execs(app: str, path: str, verb: str, target: str) -> None:
    """``exec parse_appid; exec permit_check; exec forward_to_service; exec forward_to_app``, verbatim: the first of
    them that ends in a terminal ends the run.
    """
    seen = run(GATEWAY, {"REQ": {"app": app, "path": path}, "ALLOWED": ["mail"]})
    assert (seen.verb, seen.target) == (verb, target)


SELECT = """
main:
  gateway:
    blocks:
      main:
        block: |
          exec select_node
          forward ${upstream_url}
      select_node:
        run: false
        block: |
          #block select_node
          nodeid=$(choices $service_info)
          echo "suffle result: ${nodeid}"
          exec node_info
          eq $nodeid $thisnode && upstream_url="tcp://_/${port}" && return
          eq $netid $thisnetid && upstream_url="rtcp://${node_host}/:${port}" || upstream_url="rtcp://${gateway_host}/rtcp://${node_host}:${port}"
          return
      node_info:
        run: false
        block: |
          netid=$NODES[$nodeid].net
          node_host=$NODES[$nodeid].host
"""
NODES = {"n1": {"net": "a", "host": "h1"}, "n2": {"net": "a", "host": "h2"}, "n3": {"net": "b", "host": "h3"}}
PLACE = {"thisnode": "n1", "thisnetid": "a", "gateway_host": "g", "port": 8080, "NODES": NODES}


@pytest.mark.parametrize(
    ("node", "upstream"),
    [("n1", "tcp://_/8080"), ("n2", "rtcp://h2/:8080"), ("n3", "rtcp://g/rtcp://h3:8080")],
)
def test_select_node(node: str, upstream: str) -> None:
    """The document's answer to its own question, a real select without a command of the host's: the alternative of
    ``A && B || C`` is taken where A fails.
    """
    seen = run(SELECT, {"service_info": {node: 100}} | PLACE)
    assert (seen.verb, seen.target, seen.echo) == ("forward", upstream, [f"suffle result: {node}"])


def test_select_node_follows_the_weights() -> None:
    """``choices`` over weights takes each node about as often as its weight says, with a seed always the same."""
    main, _ = chains(SELECT)

    def targets() -> Counter[str]:
        inputs = {"service_info": {"n2": 3, "n3": 1}} | PLACE
        point = HookPoint("main", engine=Engine(seed=1), inputs=dict.fromkeys(inputs, Access.READ_ONLY))
        point.mount(main)
        return Counter(point.run(inputs).target for _ in range(400))

    seen = targets()
    assert set(seen) == {"rtcp://h2/:8080", "rtcp://g/rtcp://h3:8080"}
    assert 250 < seen["rtcp://h2/:8080"] < 350
    assert seen == targets()


@pytest.mark.parametrize(
    ("first", "second", "ran"),
    [("return 1", "return 2", ["1", "2"]), ('error "x"', "return 2", ["1"]), ("return 1", 'error "x"', ["1", "2"])],
)
def test_exec_and_exec(first: str, second: str, ran: list[str]) -> None:
    """``exec block_id1 && exec block_id2``, verbatim: return and error decide whether the second one runs."""
    seen = run(f"""
main:
  main:
    blocks:
      main: {{block: 'exec block_id1 && exec block_id2'}}
      block_id1: {{run: false, block: 'echo 1; {first}'}}
      block_id2: {{run: false, block: 'echo 2; {second}'}}
""")
    assert seen.echo == ran


def test_goto_reroutes() -> None:
    """The document's use of goto, as nginx does: change the request and route it again."""
    seen = run("""
main:
  main:
    blocks:
      route:
        block: |
          path=${path ?? $REQ.path}
          starts-with $path "/new/" && forward "http://new${path}"
          match-path --capture-named old $path "/old/{page}" && path="/new/${old.page}" && goto route
          echo "behind goto nothing runs"
""", {"REQ": {"path": "/old/x"}})  # fmt: skip
    assert (seen.verb, seen.target, seen.echo) == ("forward", "http://new/new/x", [])


def test_some_requests_fail_on_purpose() -> None:
    """The document's flexible operation: a random part of the requests fails, the rest goes on."""
    point = HookPoint("main", engine=Engine(seed=5))
    point.mount(block('chance 0.2 && reject "failed on purpose"\nforward http://app'))
    seen = Counter(point.run({}).verb for _ in range(500))
    assert set(seen) == {"reject", "forward"}
    assert 60 < seen["reject"] < 140


# -- the document's process model, from its pseudo-code ----------------------------------------------------------------


class Context:
    """The document's ``context``: what the host does with a run."""

    def __init__(self) -> None:
        self.did: list[object] = []

    def do_resp(self, outcome: Any) -> None:
        """The document's ``do_resp``: look at the result alone; drop is the default."""
        word, _, rest = f"{outcome.verb} {outcome.target}".partition(" ")
        match word:
            case "accept":
                self.did.append(("response", outcome.resp))
            case "forward":
                self.did.append(("forward", rest))
            case "server":
                self.did.append(("serve", rest))
            case _:
                self.did.append(("close", outcome.error))


@pytest.mark.parametrize(
    ("text", "did"),
    [
        ("x=1", ("close", "")),
        ("drop", ("close", "")),
        ('error="why"; reject', ("close", "why")),
        ('error "broken"', ("close", "broken")),
        ("resp={status: 200}; accept", ("response", {"status": 200})),
        ('forward "http://a"', ("forward", "http://a")),
        ("server files", ("serve", "files")),
        ('return "forward http://a"', ("forward", "http://a")),
        ('return "accept"', ("response", "")),
        ('result="forward http://a"', ("forward", "http://a")),
        ('result="accept"; exit', ("response", "")),
    ],
)
def test_do_resp(text: str, did: tuple[str, object]) -> None:
    """The host of the document's pseudo-code does the same with each of its five commands and their long forms."""
    point = HookPoint("main", engine=Engine())
    point.mount(block(text))
    context = Context()
    context.do_resp(point.run({}))
    assert context.did == [did]


@pytest.mark.parametrize(
    ("short", "long"),
    [("accept", 'return "accept"'), ("forward x", 'return "forward x"'), ("server x", 'return "server x"')],
)
def test_short_forms(short: str, long: str) -> None:
    """``accept => return "accept"``, ``forward xxx => return "forward xxx"``, ``server xxx => return "server xxx"``."""
    ends = [run_engine(Program(block(f"{text}\nreject no")))[0] for text in (short, long)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("verb", ["reject", "drop"])
def test_refusals_do_not_pass_and(verb: str) -> None:
    """``reject => error "reject"``: what follows with && or || never runs, and the host refuses."""
    seen = run(f"""
main:
  main:
    blocks:
      main: {{block: 'exec h && accept || accept'}}
      h: {{run: false, block: {verb}}}
""")
    assert seen.verb == verb


def test_the_result_is_reject_before_a_run() -> None:
    """``hook_point_env.set("result", "reject")``: a list that decides nothing refuses."""
    seen = run("main: {a: {blocks: {b: {block: 'echo $result'}}}}")
    assert (seen.verb, seen.echo) == ("reject", ["reject"])


def test_every_request_has_its_own_environment() -> None:
    """``process_env = hook_point_env.clone()``: nothing of one request is seen by the next."""
    point = HookPoint("main", engine=Engine())
    point.mount(block('echo "<${g}${c}>"\nglobal g=1\nc=2\nresult="x"\nerror="y"\nresp="z"'))
    first, second = point.run({}), point.run({})
    assert first.output == second.output == ["<>"]


def test_chains_are_processes() -> None:
    """A chain's variables are its own, its blocks share them, globals are everybody's."""
    seen = run("""
main:
  one:
    blocks:
      a: {block: 'x=1; global y=2'}
      b: {block: 'echo "${x}${y}"'}
  two: {blocks: {a: {block: 'echo "${x}${y}"'}}}
""")
    assert seen.echo == ["12", "2"]


def test_blocks_run_from_the_smallest_priority() -> None:
    """``Chain`` is a map of blocks, run from the lowest priority to the highest."""
    seen = run("""
main:
  a:
    blocks:
      last: {priority: 10, block: 'echo last'}
      first: {priority: -5, block: 'echo first'}
      middle: {block: 'echo middle'}
""")
    assert seen.echo == ["first", "middle", "last"]


def test_a_failed_block_ends_everything() -> None:
    """``if not run_result: break``, in the loop over blocks and in that over chains."""
    seen = run("""
main:
  one:
    blocks:
      a: {block: 'error "bad"'}
      b: {block: 'echo "not reached"'}
  two: {blocks: {a: {block: 'echo "not reached"'}}}
""")
    assert (seen.ok, seen.error, seen.result, seen.echo) == (False, "bad", "bad", [])


def test_a_result_that_is_no_verb_goes_on() -> None:
    """``case _: block_index ++``: a successful block without a terminal result is followed by the next."""
    seen = run("""
main:
  one: {blocks: {a: {block: 'return "fine"'}, b: {block: 'echo "${result} b"'}}}
  two: {blocks: {a: {block: 'echo "${result} two"'}}}
""")
    assert seen.echo == ["fine b", "fine two"]


def test_goto_forks() -> None:
    """Goto another chain uses fork: it begins with a copy of the current chain's environment."""
    seen = run("""
main:
  one: {blocks: {a: {block: 'x=1; goto two'}, b: {block: 'echo "not reached"'}}}
  two: {blocks: {a: {block: 'echo "two ${x}"; x=2'}}}
  three: {blocks: {a: {block: 'echo "three ${x}"'}}}
""")
    assert seen.echo == ["two 1", "three "]


def test_goto_is_counted() -> None:
    """A goto without end is an error of the run, which refuses."""
    seen = run("main: {a: {blocks: {b: {block: 'goto b'}}}}")
    assert (seen.ok, seen.verb, seen.error) == (False, "reject", "PC-LIMIT-GOTO")


def test_exit_keeps_what_was_set() -> None:
    """The document's use of exit: end the list at once and leave result, error and run_result as they are."""
    seen = run("""
main:
  one: {blocks: {a: {block: 'error="e"; return "r"'}}}
  two: {blocks: {a: {block: 'exit'}}}
  three: {blocks: {a: {block: 'return "not reached"'}}}
""")
    assert (seen.ok, seen.result, seen.error) == (True, "r", "e")


def test_modules_in_yaml() -> None:
    """One file holds several hook points; each is a list of its own."""
    libs = load_yaml("pre_req: {a: {blocks: {b: {block: accept}}}}\nmain: {a: {blocks: {b: {block: drop}}}}")
    verbs = {}
    for name, lib in libs.items():
        point = HookPoint(name, engine=Engine())
        point.mount(lib)
        verbs[name] = point.run({}).verb
    assert verbs == {"pre_req": "accept", "main": "drop"}
