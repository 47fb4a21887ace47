"""Tests of the process-chain language."""
