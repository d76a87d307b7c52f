"""Users' tables (CSV, TSV, JSON Lines, Parquet) as rows of texts; knows nothing of machine learning."""
