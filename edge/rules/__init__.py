"""Rules: what is to be done with messages, made ready to run.

``binding`` runs one rule's executions, ``binder`` makes the bindings of a set of manifests. Knows endpoints and
status; the agent composes it with the rest.
"""
