"""A data set: from annotation files and a folder of images to planned samples.

Files in reading order:

schemas            configuration of a split and of its caches
formats/           annotation files -> `AnnotatedImage`
audit              annotations and images -> checked `Manifest`, and a report of everything that is wrong
  image_header     format, size, EXIF orientation and coding of an image file
  folder_listing   the files of a folder, and the file that a name means
  image_checks     strict checks of one image file
  image_levels     8-bit levels of an image of any mode
  converted        copies of the images that decoders do not read alike
  audit_files      inspects image files in threads, those not seen before
  annotation_checks  checks of the polygons of one image
  compiled_checks  finds the images that surely have nothing wrong
  audit_result     collects the manifest's arrays and the findings
  audit_report     the findings, their severity, the report
  audit_memo       keeps the result, and maps it at the next start
  audit_progress   shows how far an audit is
layout             finds the splits of a data set in a folder, for data=auto
orientation        EXIF orientation, matrices between the stored and the upright image
names              strings of a whole data set as one array
column_file        arrays in one mapped file
file_states        numbers that change with a file
manifest           the checked annotations of a split, as flat arrays
sets               several data sets as one manifest
data_checks        whether the data suit the settings of a run
image_source       the encoded images of a split by position: loose files or shards
plan               order, shards, padding and random numbers of an epoch; polygons in the input frame
  reference_plan   plans one sample at a time, readably; for the tests
  compiled_plan    plans all samples of a batch in one compiled pass
  epoch_order      the samples of a training epoch in random order, with weights
  philox           NumPy's random numbers in compiled code
base               `ValidatedOCRDataset`: one split as a PyTorch data set
items              samples for code without this project's loaders
kept_images        images kept in memory
given_image        an image that a Python caller hands over
image_list         the images that a command names
shards/            a split in tar shards, local or at s3://
"""
