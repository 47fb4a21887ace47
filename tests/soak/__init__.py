"""The soak: combined faults on real processes for as long as it is told (``python -m tests.soak --help``)."""
