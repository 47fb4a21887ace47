"""``fieldpost describe``: all about one rule or one node, words first, with what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from common.cli.asking import DataDir, Format, Output, ask, show, table_width
from common.cli.kinds import Kind, among

_TITLE_CHARS = 11


def describe(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="rule or node.", parser=among(Kind.rule, Kind.node))],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule, id of the node.")],
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the rule.")] = "default",
    data_dir: DataDir = "",
    output: Format = Output.table,
) -> None:
    """All about a rule or a node, and what to do about it. Example: fieldpost describe rule alarms -n plant"""
    found: Any
    if kind is Kind.node:
        found = ask(data_dir, "describe.node", node=name)
    else:
        found = ask(data_dir, "describe.rule", rule=name, namespace=namespace)
    if output in (Output.json, Output.yaml):
        show((), found, output)
        return
    print("\n".join(_of_node(found, output) if kind is Kind.node else _of_rule(found, output)))


def _of_rule(found: dict[str, Any], output: Output) -> list[str]:
    """Words first, then what is wanted, then a table of the nodes, then the last errors."""
    from common import tables

    conditions = found["conditions"]
    lines = _head(found["words"], (
        ("Name", found["name"]), ("Namespace", found["namespace"]), ("UID", found["uid"] or "-"),
        ("Version", found["version"] or "-"), ("Owner", found["origin"]), ("Enabled", str(found["enabled"]).lower()),
        ("Source", f"{found['source'] or '-'} {_resource(found, 'source')}".rstrip()),
        ("Target", f"{found['target'] or '-'} {_resource(found, 'target')}".rstrip()),
        ("Results", f"{found['success']} SUCCESS, {found['fail']} FAIL"),
        ("Rate", ", ".join(f"{found[f'last_{span}']} in the last {span}" for span in ("minute", "hour", "day"))),
        ("Duration", f"p50 {found['p50_us'] / 1000:.1f} ms, p95 {found['p95_us'] / 1000:.1f} ms"),
        *((each["type"], "{status} ({reason}): {message}".format(**each)) for each in conditions),
    ))  # fmt: skip
    chain = found["manifest"].get("spec", {}).get("chain", "")
    if chain:
        lines += ["Chain:", *(f"  {number:>3}  {text}" for number, text in enumerate(chain.splitlines(), 1))]
    lines += _table(tables.SHARES, found["nodes"], output)
    lines += _findings((f"{each['node']} refused version {each['refused']}", each["error"]) for each in found["nodes"])
    return lines + _table(tables.ERRORS_WIDE if output is Output.wide else tables.ERRORS, found["errors"], output)


def _of_node(found: dict[str, Any], output: Output) -> list[str]:
    """Words first, then presence and account, then what is wanted there and what runs, then losses and errors."""
    from common import tables

    node, account = found["node"], found["account"]
    status = node["status"] or {}
    labels = " ".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))
    sums = ("accepted", "confirmed", "pending", "dead", "dropped", "set_aside")
    told = ", ".join(f"{account[name]} {name.replace('_', ' ')}" for name in sums)
    lines = _head(found["words"], (
        ("Node", node["node"]), ("State", node["state"]), ("Labels", labels or "-"),
        ("Version", node["version"] or "-"),
        ("Heard", f"{tables.moment(node['last_seen'])}, first {tables.moment(node['first_seen'])}"),
        ("Epoch", f"{node['epoch'] or '-'}, session {node['session']}, retired through {node['retired_through']}"),
        ("Account", told if node["status"] else "not reported yet"),
        ("Counted", f"{account['counted']} here, balance {account['balance']}"),
        ("Again", f"{node['duplicates']} messages came again and were not counted again"),
        ("Refused", f"{node['refused']} messages, {found['letters']} dead letters of it here"),
        ("Waiting", f"{status.get('pending_messages', 0)} messages under way, "
                    f"{status.get('backlog_results', 0)} results of backlog, "
                    f"{status.get('pending_inputs', 0)} inputs, spool {status.get('spool_bytes', 0):,} bytes"),
        ("Process", f"up {status.get('uptime_s', 0):,} s, {status.get('rss_bytes', 0):,} bytes of memory, "
                    f"{status.get('rules', 0)} rules"),
    ))  # fmt: skip
    lines += _table(tables.ON_NODE, found["objects"], output)
    lines += _findings((f"{each['namespace']}/{each['name']}, version {each['refused']}", each["error"])
                       for each in found["objects"])  # fmt: skip
    lines += _table(tables.LOSSES_WIDE if output is Output.wide else tables.LOSSES, found["losses"], output)
    return lines + _table(tables.ERRORS_WIDE if output is Output.wide else tables.ERRORS, found["errors"], output)


def _head(words: Iterable[str], facts: Iterable[tuple[str, Any]]) -> list[str]:
    from common import tables

    said = [
        (" " * _TITLE_CHARS, f"{name + ':':<{_TITLE_CHARS}}{tables.printable(str(value))}") for name, value in facts
    ]
    lines = [("  ", tables.printable(text)) for text in words]
    return [line for indent, text in (*lines, ("", ""), *said) for line in _lines(text, indent)]


def _lines(text: str, indent: str) -> list[str]:
    """A text that may be longer than a line, the further ones with an indent."""
    width = table_width()
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(columns: Sequence[Any], rows: list[dict[str, Any]], output: Output) -> list[str]:
    from common import tables

    return ["", tables.render(columns, rows, str(output), table_width()).rstrip()] if rows else []


def _findings(found: Iterable[tuple[str, str]]) -> list[str]:
    from common import tables

    lines = []
    for of, error in found:
        if error:
            lines += ["", f"{of}:", *(f"  {tables.printable(text)}" for text in error.splitlines())]
    return lines


def _resource(found: dict[str, Any], side: str) -> str:
    keys = found["manifest"].get("spec", {}).get(f"{side}Resource") or {}
    return " ".join(f"{key}={value}" for key, value in keys.items())
