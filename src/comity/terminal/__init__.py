"""What the command line prints: tables and progress."""
