"""What the pipeline does, in the order of the data; every stage reads and writes artifacts only."""
