"""The paper again: each row of its tables as a recipe, what it reported, and the comparison."""
