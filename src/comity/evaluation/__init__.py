"""Metrics, intervals, predictions, and the comparison of runs."""
