"""``BUILTIN``: every command of the language. A host adds its own: ``BUILTIN.extended([match.topic_match(...)])``."""

from __future__ import annotations

from common.chain.commands import (
    actions,
    collections,
    compare,
    control,
    data,
    lists,
    match,
    query,
    rewriting,
    text,
    uri,
    variables,
)
from common.chain.commands.spec import Registry

BUILTIN = Registry((
    *control.SPECS, *variables.SPECS, *compare.SPECS, *match.SPECS, *text.SPECS, *rewriting.SPECS, *uri.SPECS,
    *query.SPECS, *data.SPECS, *collections.SPECS, *lists.SPECS, *actions.SPECS,
))  # fmt: skip
"""Never added to: two hook points of one process may have different commands."""
