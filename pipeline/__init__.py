"""The orchestrator: configuration, graph, artifacts, storage and the seam to Ray. Knows no algorithm."""

__version__ = "0.1.0"
