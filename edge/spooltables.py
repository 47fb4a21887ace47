"""The spool's tables and what their rows are; older tables are brought up to date (protocol P5.1, P5.3, P5.11)."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec

from common.codec import CodecName
from common.models import Epoch
from edge.batching import Frozen, Packed

SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1), node TEXT NOT NULL, root TEXT NOT NULL,
    epoch_n INTEGER NOT NULL, epoch_uuid TEXT NOT NULL, next_sequence INTEGER NOT NULL,
    accepted INTEGER NOT NULL, confirmed INTEGER NOT NULL, commits INTEGER NOT NULL,
    dead INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0, set_aside INTEGER NOT NULL DEFAULT 0,
    folded INTEGER NOT NULL DEFAULT 0, follows TEXT NOT NULL DEFAULT '',
    next_row INTEGER NOT NULL DEFAULT 1, backlog_through INTEGER NOT NULL DEFAULT 0, backlog INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE results (
    id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, rule TEXT NOT NULL, codec TEXT NOT NULL,
    count INTEGER NOT NULL, weight INTEGER NOT NULL, body BLOB NOT NULL, kind TEXT NOT NULL DEFAULT 'rulestatus'
);
CREATE INDEX results_of_rule ON results (kind, namespace, rule);
CREATE TABLE messages (
    epoch_n INTEGER NOT NULL, sequence INTEGER NOT NULL, epoch_uuid TEXT NOT NULL, msg_id TEXT NOT NULL,
    topic TEXT NOT NULL, codec TEXT NOT NULL, weight INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (epoch_n, sequence)
);
CREATE TABLE inputs (
    id TEXT PRIMARY KEY, namespace TEXT NOT NULL, rule TEXT NOT NULL, msg_id TEXT NOT NULL, topic TEXT NOT NULL,
    payload BLOB NOT NULL, attempts INTEGER NOT NULL, rest BLOB NOT NULL DEFAULT x''
);
CREATE TABLE dead (
    id TEXT PRIMARY KEY, at REAL NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, version TEXT NOT NULL,
    topic TEXT NOT NULL, codec TEXT NOT NULL, weight INTEGER NOT NULL, payload BLOB NOT NULL
)
"""
_FROM_2 = """
ALTER TABLE state ADD COLUMN next_row INTEGER NOT NULL DEFAULT 1;
ALTER TABLE state ADD COLUMN backlog_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN backlog INTEGER NOT NULL DEFAULT 0;
UPDATE state SET next_row = (SELECT coalesce(max(id), 0) + 1 FROM results);
DROP INDEX IF EXISTS results_by_rule;
CREATE INDEX results_of_rule ON results (kind, namespace, rule);
ALTER TABLE inputs ADD COLUMN rest BLOB NOT NULL DEFAULT x'';
"""
_FROM_1 = """
ALTER TABLE state ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN set_aside INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN folded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN follows TEXT NOT NULL DEFAULT '';
ALTER TABLE results ADD COLUMN kind TEXT NOT NULL DEFAULT 'rulestatus';
"""
_FROM_1 += _FROM_2 + SCHEMA[SCHEMA.index("CREATE TABLE dead") :]
UPGRADES = {1: _FROM_1, 2: _FROM_2}  # what brings tables of that version up to date


class State(msgspec.Struct):
    """The spool's one row of state; ``commits`` counts groups, all other counts weigh executions (P5.11).

    accepted = confirmed + dead + dropped + set_aside + pending, always; ``folded`` lost their details, not their count.
    ``follows`` is the last epoch before this one that froze a message, with its next sequence. ``next_row`` is the id
    of the next result row, never used before; rows up to ``backlog_through`` are the backlog, ``backlog`` executions.
    """

    epoch: Epoch
    next_sequence: int = 1
    accepted: int = 0
    confirmed: int = 0
    commits: int = 0
    dead: int = 0
    dropped: int = 0
    set_aside: int = 0
    folded: int = 0
    follows: str = ""
    next_row: int = 1
    backlog_through: int = 0
    backlog: int = 0

    @property
    def pending(self) -> int:
        """Executions that are accepted and neither confirmed nor lost."""
        return self.accepted - self.confirmed - self.dead - self.dropped - self.set_aside


class Input(NamedTuple):
    """A journalled input: one message for one rule, to be run (again) after a restart (P5.3).

    ``id`` is the journal's own; ``msg_id`` is the message's, which a careless source may use twice.
    """

    id: str
    namespace: str
    rule: str
    msg_id: str
    topic: str
    payload: bytes
    attempts: int = 1
    rest: bytes = b""  # what else the message has; edge.messages knows it


class DeadMessage(NamedTuple):
    """A message that the cloud can never accept, kept as it was (P5.9). ``version`` is its epoch and sequence."""

    id: str
    at: float
    reason: str
    detail: str
    version: str
    topic: str
    codec: CodecName
    weight: int
    payload: bytes


class Changes(msgspec.Struct):
    """What one group changes, all in one transaction."""

    state: State
    new_results: list[Packed] = []
    folded_results: list[Packed] = []  # summaries, each in the place of its one row
    gone_results: list[int] = []
    new_messages: list[Frozen] = []
    gone_messages: list[tuple[int, int]] = []
    new_inputs: list[Input] = []
    gone_inputs: list[str] = []
    new_dead: list[DeadMessage] = []
    gone_dead: list[str] = []
    done: list[tuple[asyncio.Future[Any], Any]] = []  # what to tell whom when it is durable
