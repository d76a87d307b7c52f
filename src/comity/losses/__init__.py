"""The losses of heads and embeddings."""
