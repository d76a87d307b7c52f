"""Kills training at many instants and breaks what it has saved: `make torture`.

`make test` runs a short form of each part (tests/training/test_kill.py).
"""
