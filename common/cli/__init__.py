"""Command groups of ``fieldpost`` that need neither edge nor cloud: they ask a running process, or work on files.

One file a group. Each makes a typer application (or commands that ``fieldpost.py`` registers); what several need is in
``asking.py``. Heavy imports stand inside the commands, so that each starts fast. This package and ``fieldpost.py`` are
the door to standard output.
"""
