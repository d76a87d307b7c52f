"""Turns tables into batches: token ids, labels, splits, leakage, task sampling, packing."""
