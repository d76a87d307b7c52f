"""The `comity` command, one module per subcommand."""
