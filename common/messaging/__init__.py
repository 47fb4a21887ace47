"""How messages travel: the MessageLayer and what carries it.

``base`` states the contracts. ``mqtt`` is the message layer (with ``inbound`` and ``replies``), ``memory`` the same
inside one process. ``transport`` is the link over the client that the settings name: ``native``, with its codec
``wire``, or ``pahoclient``, the one file that imports paho. The rest of a link knows neither: ``link`` (lifecycle),
``dialer`` and ``endpoint`` (coming up), ``stream`` (the socket), ``outbox`` and ``window`` (what is sent),
``subscriptions``, ``limits``, and ``connection``, what a client must provide. ``broker`` runs the embedded broker as a
child process. Knows messages, topics and codecs; knows nothing of rules, spools or stores.
"""
