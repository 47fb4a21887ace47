"""How messages travel: the MessageLayer and what carries it.

``base`` states the contracts. ``mqtt`` is the message layer (with ``inbound`` and ``replies``), ``memory`` the same
inside one process. ``transport`` is the link, the one file that imports paho; the rest of a link knows no MQTT library:
``link`` (lifecycle), ``dialer`` and ``endpoint`` (coming up), ``stream`` (the socket), ``outbox`` and ``window`` (what
is sent), ``subscriptions``, ``limits``, and ``connection``, what a library must provide. ``broker`` runs the embedded
broker as a child process. Knows messages, topics and codecs; knows nothing of rules, spools or stores.
"""
