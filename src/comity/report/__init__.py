"""What a run looks like: pictures, and the analysis of a task that predicts a number."""
