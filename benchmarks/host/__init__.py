"""The host's CPU time: what the CPU does for each sample and step while a GPU trains or validates.

    uv run python -m benchmarks.host --receipts FOLDER --scenes FOLDER --json FILE --markdown FILE

timing      CPU time on one thread, and the share of it that holds the GIL
workloads   receipts, receipts with three times the text, scenes; in any number of images
planning    plan, polygons in the input frame, their outlines, and their packing
launching   what the thread that launches kernels does in the training loader
step        what Lightning, callbacks and loggers add to a training step
validation  post-processing and metric of a validated image
report      tables, and whether each limit holds
"""
