"""Benchmarks by the clauses of the performance bars: ratios measured in one run, results checked before they are
reported.

``python -m bench`` runs what there is and prints one table; JSON with commit, machine and versions goes to
``bench/results/``. Never run by the test suite as a timed test.
"""
