"""Losses of heads and of embeddings."""
