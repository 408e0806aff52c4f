"""Pages and pictures that a person learns from, for the inspection of a data set, an evaluation and a training run.

html       parts of a page: document, tables, figures, bar charts
samples    images with their polygons, samples with their target maps, drawn with Pillow
histograms counts of one measure as plain data
reviewed   an image of an evaluation with its review; the order of the worst
worst      keeps the probability maps of the worst images while an evaluation goes on
findings   what a pass over the reviews adds up to: scores, scores by box_thresh, misses by kind of text, the worst images
compare    another evaluation of the same images
marks      colours and kinds of outlines; the picture of a reviewed image, drawn with Pillow
overlay    the same as SVG in layers
charts     SVG of the scores by box_thresh and of the misses
page       the HTML file of an evaluation; page.css and page.js are part of it
write      findings -> pictures -> page
"""
