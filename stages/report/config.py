"""Configuration of the report."""

from pydantic import Field

from pipeline.config_base import Config, placement


class ReportConfig(Config):
    """The page that says what was kept, what was dropped, and why."""

    title: str = "Gradsieve report"
    """Heading of the page."""
    gallery: int = Field(24, ge=0, le=200)
    """Pictures in each of the two main galleries, best and worst; the finer ones show half as many."""
    truth: str | None = placement(None)
    """Parquet that says what is wrong with each sample, where that is known: columns uid, ills, mismatched, clean,
    trusted, true_caption. Read by evaluation and report alone; its content, not its place, is part of the identity."""
