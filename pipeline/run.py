"""`python -m pipeline.run CONFIG [key.path=value ...]`: the same as `gradsieve run`."""

import sys

from pipeline.cli.app import program

if __name__ == "__main__":
    program(["run", *sys.argv[1:]])
