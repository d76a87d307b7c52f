"""From tables to batches: token ids, labels, splits, leakage, task sampling, packing."""
