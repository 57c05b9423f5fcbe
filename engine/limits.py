"""How much is run at once. Loads no torch, for what a job will cost is told before one starts."""

# Tokens (rows x positions) that a trace begins with. On a CPU larger batches are no faster; on a GPU this is where to
# begin looking.
CPU_TOKENS = 8_192
GPU_TOKENS = 262_144
# Of a search for values, over the rows of several requests, and of documents that are read for a second moment.
SEARCH_TOKENS = 8_192
READING_TOKENS = 2_048
