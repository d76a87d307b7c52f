"""A trained model applied to new texts and files."""
