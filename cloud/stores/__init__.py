"""Where the cloud keeps what it knows: counts, progress, errors, presence, dead letters.

``base`` states the contract and the values, ``sql`` is the implementation on SQLAlchemy Core (SQLite, later PostgreSQL)
with ``engine`` (connections), ``tables`` (schema), ``writes`` (what one transaction does), ``presence`` (births and
retirement), ``rings`` (what is bounded) and ``queries`` (reads). Does not belong here: messages, topics, replies, and
any decision what to answer.
"""
