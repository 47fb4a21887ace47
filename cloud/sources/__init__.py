"""Sources of desired state other than our own API: they watch somebody else's objects and put them into the store.

A source knows its origin and the door to desired state, nothing of nodes and results (protocol P6, P8.3).
"""
