"""The encoder, the heads, the flat parameters and the checkpoints; reads no file of a user."""
