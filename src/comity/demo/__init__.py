"""A small corpus of three tasks, and the demo that trains them in a minute or two."""
