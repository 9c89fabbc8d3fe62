"""Thin commands over the pipeline."""
