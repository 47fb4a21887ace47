"""The specs of controls and special forms (L6): arity and documentation. The compiler has their code."""

from __future__ import annotations

from common.chain.commands.spec import Example, Kind, Opt, Param, Spec

_FROM = Opt("from", "The unit that ends.", type="text", choices=("block", "chain", "lib"))
_TARGET = Param("target", "`block`, `chain`, `chain:block` or `lib:chain:block`; may be computed.", type="text")
_UNITS = (
    Opt("block", "The target is a block.", group="unit"),
    Opt("chain", "The target is a chain.", group="unit"),
    Opt("lib", "The target is a list of chains.", group="unit"),
)
_REASON = Param(
    "reason", "Becomes `$error`; without it a `$error` that is not empty stays.", type="text", optional=True
)
_VALUE = Param("value", "Its value.", optional=True)
_ENDS = ("ends",)


def _control(
    name: str,
    doc: str,
    params: tuple[Param, ...],
    examples: tuple[Example, ...],
    options: tuple[Opt, ...] = (),
    aliases: tuple[str, ...] = (),
) -> Spec:
    return Spec(name, "control", doc, params=params, options=options, effects=_ENDS, examples=examples, aliases=aliases)


RETURN = _control(
    "return",
    "End this block (or the chain, or the list) successfully; what follows it runs. At the level of the list the value"
    " becomes `$result`, under exec and invoke it is the call's. A literal that begins with a verb is that verb.",
    (_VALUE,),
    (
        Example('return "ok"; accept', verb="reject"),
        Example('return "forward tcp://x"', verb="forward"),
    ),
    (_FROM,),
)

ERROR = _control(
    "error",
    "End the block, the chain and the list (or what --from says) as failed; sets `$error`, and `$result` at the level"
    " of the list. Under exec and invoke the call is Err; where nobody tests it, it fails at that line, too.",
    (_VALUE,),
    (
        Example('error "no app"; accept', verb="reject"),
        Example("error --from block; accept", verb="reject"),
    ),
    (_FROM,),
)

EXIT = _control(
    "exit",
    "End the list from any depth. With a verb it is that verb; another value becomes `$result`; without a value verb"
    " and result stay as they were set.",
    (_VALUE,),
    (Example("exit accept", verb="accept"), Example("exit; accept", verb="reject")),
)

GOTO = _control(
    "goto",
    "Jump to a block of this chain, a chain of the list, or a global chain, and never return. A chain starts with a"
    " copy of this chain's variables and takes its place. At most 128 in a run.",
    (_TARGET,),
    (
        Example("n = $m; m = 1; $n == 1 || goto main; accept", verb="accept"),
        Example("goto main", verb="reject"),
    ),
)

EXEC = Spec(
    "exec",
    "control",
    "Run a block of this chain with this chain's variables, or anything else with fresh ones, and go on.",
    params=(_TARGET,),
    options=_UNITS,
    ok="what it returned, else the value of its last statement",
    answers="what it ended with by error, else the Err of its last statement",
    effects=_ENDS,
    examples=(
        Example("n = $m; m = 1; $n == 1 || exec main; accept", verb="accept"),
        Example("exec main", verb="reject"),
    ),
)

INVOKE = Spec(
    "invoke",
    "control",
    "Run a target like exec, with variables of its own and the read-only map `$__args`.",
    params=(_TARGET,),
    options=(*_UNITS, Opt("arg", "A key and its value for `$__args`; may be repeated.", type="pair", repeated=True)),
    ok="what it returned, else the value of its last statement",
    answers="what it ended with by error, else the Err of its last statement",
    effects=_ENDS,
    examples=(
        Example("is-null $__args?.n && invoke main --arg n 1; accept", verb="accept"),
        Example("invoke main --arg n 1", verb="reject"),
    ),
)

ACCEPT = _control(
    "accept",
    "Terminal: end the run with the verb accept.",
    (),
    (Example("accept", verb="accept"), Example("eq 1 2 && accept", False, ok=False, verb="reject")),
)

REJECT = _control(
    "reject",
    "Terminal: end the run with the verb reject.",
    (_REASON,),
    (Example("reject", verb="reject"), Example('reject "not permitted"', verb="reject")),
)

DROP = _control(
    "drop",
    "Terminal: end the run with the verb drop.",
    (_REASON,),
    (Example("drop", verb="drop"), Example('drop "too many"', verb="drop")),
)

FORWARD = _control(
    "forward",
    "Terminal: end the run with the verb forward and a target. An empty target is misuse.",
    (Param("target", "Where to.", type="text"),),
    (Example("forward tcp://127.0.0.1:80", verb="forward"), Example('n = ""; forward $n', verb="reject")),
)

SERVER = _control(
    "server",
    "Terminal: end the run with the verb server and the id of a server. An empty id is misuse.",
    (Param("id", "The server.", type="text"),),
    (Example("server files", verb="server"), Example('n = ""; call-server $n', verb="reject")),
    aliases=("call-server",),
)

BREAK = _control(
    "break",
    "End the enclosing for, which then has this value.",
    (_VALUE,),
    (Example("for x in [1, 2] then break $x; end", 1), Example("for x in [1] then break; end", "")),
)

CONTINUE = _control(
    "continue",
    "Go on with the next item of the enclosing for.",
    (),
    (
        Example("n = 0; for x in [1, 2] then $x == 1 && continue; n = $x; end; y = $n", 2),
        Example("for x in [1, 2] then continue; end", ""),
    ),
)

FIRST_OK = Spec(
    "first-ok",
    "control",
    "Run commands until one is Ok.",
    params=(Param("command", "A `$(...)`, run only when those before it failed.", Kind.COMMAND, repeated=True),),
    ok="the first Ok",
    answers="the last Err when none is Ok",
    examples=(
        Example('first-ok $(strip-prefix "/b/x" "/a") $(strip-prefix "/b/x" "/b")', "/x"),
        Example('first-ok $(eq 1 2) $(strip-prefix "/x" "/a")', "", ok=False),
    ),
)

CAPTURE = Spec(
    "capture",
    "control",
    "Run a command and write what became of it to variables of the block. It has the command's own status and value."
    " A terminal passes through, and nothing is written.",
    params=(Param("command", "The `$(...)`.", Kind.COMMAND),),
    options=(
        Opt("value", "Write its value.", out=True),
        Opt("status", 'Write "success" or "error".', out=True),
        Opt("ok", "Write true when it was Ok.", out=True),
        Opt("error", "Write true when it was Err.", out=True),
    ),
    ok="the command's value",
    answers="the command's Err",
    effects=("writes",),
    examples=(
        Example('capture --value v --status s $(append a b); x = "${v} ${s}"', "ab success"),
        Example('capture --ok good $(strip-prefix "/x" "/a")', "", ok=False),
    ),
)

SPECS = (
    RETURN, ERROR, EXIT, GOTO, EXEC, INVOKE, BREAK, CONTINUE, FIRST_OK, CAPTURE,
    ACCEPT, REJECT, DROP, FORWARD, SERVER,
)  # fmt: skip
