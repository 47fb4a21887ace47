"""The Kubernetes API as far as it is used here: how to reach it, the few calls, and installing our resource types.

It knows HTTP and Kubernetes, nothing of results, stores and controllers: those are in ``cloud/forwarders`` and
``cloud/sources``. Why this is no client library: docs/decisions/0021.
"""
