"""The input pipeline: from planned samples to batches of images. It imports nothing from `ocr`.

The files in reading order:

config             sizes, normalisation, augmentation, decoder settings
geometry           the 3x3 matrices between pixel frames
source             planned samples and stored images go in, image batches come out
steps              the steps of the graphs, as functions of DALI nodes
train, eval        the two graphs of a GPU, in which DALI does everything
cpu                the graph without a GPU: DALI reads and decodes
rendering          resize, warp and colours on the CPU; needs no DALI
turbojpeg          decodes an image file on the CPU without DALI
scaled             renders an image from a file that libjpeg-turbo decodes at a fraction of its size (scaled_decode); needs no DALI
threads            renders and finishes the images that the CPU's graph has decoded; needs no DALI
outputs            takes batches out of a pipeline: through the threads on a CPU, out of DALI's memory on a GPU
normalize          levels to the network's input, padding included; needs no DALI
decode             the graph that only decodes, to find damaged files
graphs             chooses and builds the graph of a split
ahead              makes items in a thread before they are needed; needs no DALI
plan_chain         the batches of an epoch, followed by those of the next one; needs no DALI
signature          tells whether a file has changed; needs no DALI
feed               from planned samples to the arrays of DALI's external sources
loader             runs a plan: builds the pipeline, takes batches out, restarts
recovery           redoes a failed batch sample by sample and names the file at fault
memory             DALI's memory pools: predicted, preallocated, released
allocation_errors  tells failed allocations from damaged files; needs no DALI
compiled           numba functions, and threads that run them
"""
