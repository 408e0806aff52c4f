"""The embedded data set: photographed receipts and notices, drawn on request, so that a first run needs no download.

phrases (what is written) -> text (one run of ink) -> typesetting, sheets (receipts and notices) -> page (a printed
sheet) -> scene, photo (sheets on a table or wall, seen by a camera) -> jpeg (the stored file) -> data_set (a folder in
the Upstage layout, drawn by several processes).
"""
