"""The cloud side: desired state down, observed state up.

Belongs here: the controller process with its dispatch table, handlers, presence, store, and what shows or forwards the
state. It may know ``common`` and nothing of ``edge``. Inside: controller -> upstream -> handlers -> sessions -> stores;
``progress`` and ``counting`` are pure values that the stores use.
"""
