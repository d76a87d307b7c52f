"""Exports of a run to formats that other programs load."""
