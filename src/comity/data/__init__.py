"""From files to batches: typed tables, token ids in flat arrays, schedules. Knows no model."""
