"""Turns a data set in any supported format into one that is ready for training.

    <output>/prepared.json                      where the data came from and what was prepared
    <output>/jsons/{train,val,test}.json        checked annotations, in the frame of the images beside them
    <output>/images/{train,test}/               images, upright unless canonical=false
    <output>/images_val_canonical/              images of val; images/val/ with canonical=false
    <output>/<image folder>_maps/               target maps of val and test
    <output>/shards/{train,val,test}/           the same images and annotations as tar shards, with shards=true

The annotations of a split are removed before its images change and written after them, and so is the index of its shards: an
interrupted run never leaves annotations that do not fit. With `output` equal to the data set's own folder, only maps (beside its
images) and shards are added.

Files in reading order:

prepare   the command: audits all splits, then prepares one after the other
jobs      one split: its audited annotations and the places its files go to
output    the output folder: whether it may be written to, its marker prepared.json, its lock
images    copies images, or turns them upright
maps      writes target maps
shards    writes tar shards
outcomes  the outcome of one file, and the thread pool that works through the files
report    the report on each split
"""
