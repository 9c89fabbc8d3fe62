"""`python -m pipeline.run CONFIG [key.path=value ...]`: the same as `gradsieve run`."""

import sys

from pipeline.cli.app import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
