"""The synthetic data set: photographed receipts and notices, drawn on request, so that a first run needs no download.

Files in reading order:

config       number, size and difficulty of the pictures
data_set     a folder in the Upstage layout, drawn by several processes
worker       one of these processes
scene        chooses the content of one picture
sheets       receipts and notices
  phrases      their words
  typesetting  sets text on a page from top to bottom
  ornaments    rules and signs
  text         one run of ink, and the curves it follows
  page         a printed sheet
texture      paper, tables, walls
clutter      coins, pens and cards on a table
view         the map between a flat sheet and the photo
photo        photographs the sheets
jpeg         encodes the photo as a JPEG file
"""
