"""The paper's tables and figure as recipes, and the comparison with its results."""
