"""A small corpus of three tasks, and the demo that trains on it."""
