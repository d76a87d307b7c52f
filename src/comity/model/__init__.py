"""The encoder behind its seam, and the heads that read it. Knows no data files."""
