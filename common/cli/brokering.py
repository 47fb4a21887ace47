"""``fieldpost broker``: identities at the broker as files for Mosquitto and EMQX (experience U2, reliability R4).

No command takes or shows a secret: each is made here and stands in a file of mode 0600.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from common.cli.asking import Format, Output, show

broker = typer.Typer(
    help="Make and change the identities of a broker: certificates, passwords, ACL.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
users = typer.Typer(help="Users of the broker.", no_args_is_help=True, rich_markup_mode=None)
broker.add_typer(users, name="users")

Directory = Annotated[Path, typer.Option("--dir", help="Directory of the files.")]
Read = Annotated[list[str] | None, typer.Option("--read", help="Topic filter that it may read; repeatable.")]
Write = Annotated[list[str] | None, typer.Option("--write", help="Topic filter that it may write; repeatable.")]
BusRead = Annotated[
    list[str] | None, typer.Option("--bus-read", help="Filter that <node>-bus may read; {node} is its id; repeatable.")
]
BusWrite = Annotated[
    list[str] | None,
    typer.Option("--bus-write", help="Filter that <node>-bus may write; as --bus-read."),
]
UserName = Annotated[str, typer.Argument(metavar="NAME", help="User name, which is the client id.")]
FILES = Path("broker-files")
RELOAD = "then give the broker its files and let it read them: Mosquitto on SIGHUP, revoked certificates at its restart"


class _Product(StrEnum):
    mosquitto = "mosquitto"
    emqx = "emqx"
    nats = "nats"


@broker.command("init")
def init(
    directory: Directory = FILES,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="Name or address of the broker; the first is for the clients.")
    ] = None,
    node: Annotated[list[str] | None, typer.Option("--node", help="Node id; repeatable.")] = None,
    bus_read: BusRead = None,
    bus_write: BusWrite = None,
    controllers: Annotated[int, typer.Option("--controllers", min=1, help="How many, cloud-1 and on.")] = 1,
    root: Annotated[str, typer.Option("--root", help="First level of fieldpost's topics.")] = "fieldpost",
    bind: Annotated[str, typer.Option("--bind", help="Address to listen on; default all.")] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="For users with a password, TLS.")] = 8883,
    certificate_port: Annotated[
        int, typer.Option("--certificate-port", min=1, max=65535, help="For users with a certificate, TLS.")
    ] = 8884,
    broker_at: Annotated[str, typer.Option("--broker-at", help="Where the broker will find its files.")] = "",
    data_at: Annotated[str, typer.Option("--data-at", help="Where the broker will keep its data.")] = "",
    clients_at: Annotated[str, typer.Option("--clients-at", help="Where each client will find its files.")] = "",
) -> None:
    """Make what is missing: authority, certificates, users, ACL. Example: fieldpost broker init --node gw-7"""
    from common.brokerfiles.directory import BrokerFiles, Layout
    from common.brokerfiles.identities import of_node

    layout = Layout(
        hosts=tuple(host or Layout().hosts), root=root, bind=bind, port=port, certificate_port=certificate_port,
        broker_at=broker_at, data_at=data_at, clients_at=clients_at,
    )  # fmt: skip
    nodes = [each for name in node or [] for each in of_node(name, tuple(bus_read or ()), tuple(bus_write or ()))]
    made = BrokerFiles(directory).init(layout, nodes, controllers=controllers)
    print(f"broker   {directory / 'mosquitto'}: mosquitto -c {directory / 'mosquitto' / 'mosquitto.conf'}")
    print(f"clients  {directory / 'clients'}: one directory for each, with its fieldpost.yaml")
    print(f"new      {', '.join(made) or 'nothing: all was there'}")
    print(f"keep     {directory / 'authority'} where no client and no broker is: who has ca.key is everybody")


@broker.command("add-node")
def add_node(
    node: Annotated[str, typer.Argument(help="Node id.")],
    directory: Directory = FILES,
    bus_read: BusRead = None,
    bus_write: BusWrite = None,
) -> None:
    """Add a node, or change the topics of its bus. Example: fieldpost broker add-node gw-8 --bus-read 'devices/#'"""
    from common.brokerfiles.directory import BrokerFiles

    files = BrokerFiles(directory)
    made = files.add_node(node, bus_read or (), bus_write or ())
    print(f"new      {', '.join(made)}: bring {files.bundle(node)} to the node; {RELOAD}"
          if made else f"changed  the topics of {node}-bus; {RELOAD}")  # fmt: skip


@broker.command("revoke")
def revoke(name: UserName, directory: Directory = FILES) -> None:
    """Take password, certificate and rights away, of a node both. Example: fieldpost broker revoke gw-8"""
    from common.brokerfiles.directory import BrokerFiles

    gone = BrokerFiles(directory).revoke(name)
    print(f"revoked  {', '.join(gone)}; {RELOAD}")


@broker.command("acl")
def acl(
    directory: Directory = FILES,
    product: Annotated[_Product, typer.Option("--for", help="mosquitto, emqx or nats.")] = _Product.mosquitto,
) -> None:
    """Print the ACL. Example: fieldpost broker acl --for emqx"""
    from common.brokerfiles.directory import BrokerFiles
    from common.brokerfiles.rendering import emqx_acl, mosquitto_acl, nats_users

    record = BrokerFiles(directory).record()
    render = {_Product.mosquitto: mosquitto_acl, _Product.emqx: emqx_acl, _Product.nats: nats_users}[product]
    print(render(record.identities, record.layout.root), end="")


@users.command("ls")
def users_ls(directory: Directory = FILES, output: Format = Output.table) -> None:
    """List the users and what each may do. Example: fieldpost broker users ls"""
    from common import tables
    from common.brokerfiles.directory import BrokerFiles
    from common.brokerfiles.identities import rights_of

    record = BrokerFiles(directory).record()
    rows: list[dict[str, Any]] = []
    for each in record.identities:
        rights = rights_of(each, record.layout.root)
        ends = datetime.fromtimestamp(each.not_after, UTC).strftime("%Y-%m-%d")
        rows.append({"name": each.name, "kind": each.kind, "certificate_ends": ends,
                     "write": list(rights.write), "read": list(rights.read)})  # fmt: skip
    show(tables.BROKER_USERS, rows, output)


@users.command("add")
def users_add(name: UserName, directory: Directory = FILES, read: Read = None, write: Write = None) -> None:
    """Add a user of yours, or change its topics. Example: fieldpost broker users add p-1 --write 'devices/p-1/#'"""
    from common.brokerfiles.directory import BrokerFiles

    files = BrokerFiles(directory)
    made = files.add_user(name, read or (), write or ())
    print(f"new      {name}: its files are in {files.bundle(name)}; {RELOAD}"
          if made else f"changed  the topics of {name}; {RELOAD}")  # fmt: skip


@users.command("rotate")
def users_rotate(name: UserName, directory: Directory = FILES) -> None:
    """Make a new password and certificate; the old ones end. Example: fieldpost broker users rotate gw-7"""
    from common.brokerfiles.directory import BrokerFiles

    BrokerFiles(directory).rotate(name)
    print(f"new      secrets of {name}; {RELOAD}")
