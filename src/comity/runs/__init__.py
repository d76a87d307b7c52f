"""The run directory and the typed records in it. Loads no torch."""
