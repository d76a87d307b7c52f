"""The `comity` command, one module for each subcommand."""
