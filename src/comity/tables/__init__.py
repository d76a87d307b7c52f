"""Reads and writes users' tables: CSV, TSV, JSON Lines and Parquet; knows no machine learning."""
