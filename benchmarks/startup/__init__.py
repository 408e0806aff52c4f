"""How long a run takes until its first batch, and how much memory, by the size of the data set."""
