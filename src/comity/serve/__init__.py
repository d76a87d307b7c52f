"""The server of `comity serve`: a JSON API and a page for one run."""
