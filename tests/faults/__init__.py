"""Faults: power cuts, damaged files, full disks, kills at named points, networks that lie (reliability R3)."""
