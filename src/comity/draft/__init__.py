"""Drafts a recipe from a user's tables: guesses tasks and columns, with the evidence."""
