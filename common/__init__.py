"""What edge and cloud must agree on.

Belongs here: the message model, resources, topics, codecs, typed models, the message layer, and the small services that
both processes need (configuration, control socket, logs, clock, tasks, metrics, the one-thread database writer).
Does not belong here: anything that only one side needs. This package imports neither ``edge`` nor ``cloud``.
"""
