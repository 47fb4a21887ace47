"""Tests of the HTTP API, of health and metrics, and of the command line that asks through it."""
