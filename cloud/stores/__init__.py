"""Where the cloud keeps what it knows: counts, progress, errors, presence, losses, dead letters.

``base`` states the contract and the values, ``sql`` is the implementation on SQLAlchemy Core (SQLite, later PostgreSQL)
with ``engine`` (connections), ``tables`` and ``migrations`` (schema), ``writes`` (what one transaction does),
``conflicts``, ``presence`` and ``replacing`` (births, retirement, two spools for one node), ``losses`` (loss records),
``rings`` (what is bounded), ``reads`` and ``queries``. Does not belong here: messages, topics, replies, and any
decision what to answer.
"""
