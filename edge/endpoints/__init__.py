"""Endpoints: where messages come from and where they go (flow F3).

Each file is one endpoint type, as source and as target. An endpoint knows nothing of rules: as a source it hands over
an ``Arrival``, as a target it is given a message and a callback. The types: ``eventbus``, ``rest``, ``servicebus``.
"""
