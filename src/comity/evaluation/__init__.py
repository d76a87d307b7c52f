"""Metrics, bootstrap intervals, predictions, evaluation and comparison of runs."""
