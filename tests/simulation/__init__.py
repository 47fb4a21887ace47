"""Simulation: edge, broker and cloud as plain objects in one thread, under a seeded scheduler and a virtual clock.

Here belongs what stands around the product's own parts (Spool, Uplink, Status, Presence, batching, Reader, Progress,
StatusCommit): a disk, a broker and a store that fail when the seed says so, and the truth against which every step is
held. One seed is one run, and replays: ``python -m tests.simulation --seed N``.
"""
