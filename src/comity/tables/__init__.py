"""Users' tables (CSV, TSV, JSON Lines, Parquet) as rows of texts; no machine learning."""
