"""Prices by default, from the table `pipeline/prices.csv`; each is a field of `plan.rates` to override."""

import csv
from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=1)
def prices() -> dict[str, float]:
    """Name of the field in `plan.rates` -> USD."""
    text = files("pipeline").joinpath("prices.csv").read_text()
    return {row["price"]: float(row["usd"]) for row in csv.DictReader(text.splitlines())}
