"""The demo pool: a small crawl with known ills, rendered from scikit-learn's handwritten digits."""

from stages.pool.demo.make import DemoPool, make_pool
from stages.pool.demo.rates import IllRates

__all__ = ["DemoPool", "IllRates", "make_pool"]
