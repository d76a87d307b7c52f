"""Terminal output: tables of results on standard output, progress on standard error."""
