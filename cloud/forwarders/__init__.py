"""Forwarders: the status of rules, onward to sinks of every kind (protocol P8.2)."""
