"""Writes trained models in formats that other libraries load, and uploads them to the hub."""
