"""A closer look at single pages: large pages in tiles, and pages on their side.

Files in reading order:

config    the settings `tile` and `rotations`
views     a page turned by quarter turns
windows   where the tiles of a page lie
tiles     the map of a page from the maps of its tiles
estimate  how high the text is, and the scale that suits it
merge     joins large text of the whole page with the text of its tiles
detector  from the pass over the whole page to the text of the page
"""
