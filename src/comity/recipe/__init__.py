"""The recipe: its keys, their rules, and the messages about errors in it."""
