"""Everything that only a GPU can show, in one call: what `scripts/gpu_check.sh` runs.

__main__ (command line) -> runner (budget, time limits) -> worker (a process of its own: runs one step after the other)
       the figures of a step -> judges (figures to lines: found, asked, passed) -> report (gpu_check.json, gpu_check.md)

The runner's side imports neither torch nor DALI: it must live on where these hang or crash.
"""
