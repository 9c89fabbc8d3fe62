"""`gradsieve pool`: pools to curate."""

import shlex
from typing import Annotated

import typer

from pipeline.progress import Reporter

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _pool() -> None:
    """Make a demo pool.

    Example: `gradsieve pool make data/demo`
    """


@app.command()
def make(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder to make; must not hold anything else.")],
    samples: Annotated[int, typer.Option("--samples", min=256, help="Image-text pairs to render.")] = 8192,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same pool, byte for byte.")] = 0,
) -> None:
    """Render a web-like image-text pool from real handwriting, with the ills of a crawl at known rates.

    Writes shards and metadata in DataComp's layout, an evaluation set, a small trusted subset, and apart from
    them what is wrong with each sample (`truth.parquet`), which no stage may read.

    Example: `gradsieve pool make data/demo --samples 2048`
    """
    from stages.pool.demo import make_pool  # torch, for the scorers, is paid for only here

    make_pool(directory, num_samples=samples, seed=seed, reporter=Reporter())
    typer.echo(f"demo pool at {directory}: run it with\n  gradsieve run demo.yaml{_overrides(directory)}")


def _overrides(directory: str) -> str:
    """What demo.yaml must be told of a pool elsewhere."""
    root = directory.rstrip("/")
    if root == "data/demo":
        return ""
    places = {
        "pool.path": "shards",
        "pool.metadata": "metadata",
        "reference.trusted": "trusted.npy",
        "evaluate.data": "eval",
        "report.truth": "truth.parquet",
    }
    return "".join(f" {shlex.quote(f'{key}={root}/{name}')}" for key, name in places.items())
