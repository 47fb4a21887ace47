"""How messages travel: the MessageLayer and what carries it.

``base`` states the contracts, ``memory`` and ``mqtt`` are the two message layers, ``transport`` is the one file that
imports paho, ``broker`` runs the embedded broker as a child process. Knows messages, topics and codecs; knows nothing
of rules, spools or stores.
"""
