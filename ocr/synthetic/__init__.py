"""The embedded data set: photographed receipts and notices, drawn on request, so that a first run needs no download.

phrases (what is written) -> text (one run of ink) -> typesetting, sheets (receipts and notices) -> page (a printed
sheet) -> scene, photo (sheets on a table or wall, seen by a camera) -> jpeg (the stored file) -> data_set (a folder in
the Upstage layout, drawn by several processes).
"""

from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set

__all__ = ["SyntheticConfig", "draw_data_set"]
