"""Draws the sheets that are photographed: receipts and notices."""

import numpy as np

from ocr.synthetic import phrases, texture
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.page import Page
from ocr.synthetic.phrases import pick
from ocr.synthetic.text import Style
from ocr.synthetic.texture import Color, Size
from ocr.synthetic.typesetting import Look, Typesetter

RECEIPT_FACES = ("Roboto", "RobotoMedium", "RobotoMedium", "SourceSerifProSemibold", "SourceSerifPro")
TITLE_FACES = ("RobotoBold", "RobotoBlack", "SourceSerifProBold", "SourceSerifProBoldIt")
NOTICE_FACES = ("RobotoMedium", "RobotoBold", "SourceSerifProSemibold", "SourceSerifProSemiboldIt", "AmaticSCBold")
RECEIPT_PAPERS: tuple[Color, ...] = (
    (246, 245, 240),
    (240, 238, 228),
    (232, 233, 238),
    (248, 240, 214),
    (240, 222, 224),
)
RECEIPT_INKS: tuple[Color, ...] = ((38, 38, 42), (52, 50, 72), (28, 30, 34), (74, 66, 92), (70, 66, 64))
NOTICE_COLORS: tuple[tuple[Color, Color, Color], ...] = (  # paper, running text, titles and signs
    ((246, 246, 242), (30, 30, 32), (180, 28, 30)),
    ((250, 214, 60), (26, 26, 24), (20, 20, 20)),
    ((36, 70, 128), (240, 242, 246), (255, 230, 120)),
    ((168, 32, 34), (250, 244, 236), (255, 255, 255)),
    ((30, 96, 62), (240, 246, 238), (252, 250, 220)),
    ((44, 46, 48), (232, 228, 216), (246, 196, 90)),
    ((226, 236, 244), (28, 42, 78), (24, 74, 150)),
    ((246, 226, 200), (70, 40, 26), (150, 60, 20)),
    ((214, 236, 206), (24, 60, 32), (16, 90, 50)),
)


def receipt(rng: np.random.Generator, config: SyntheticConfig, size: Size, text_height: float) -> Page:
    """Returns a receipt as wide as `size` (H, W) and at most as high. Capital letters are `text_height` pixels high."""
    body = Style(pick(rng, RECEIPT_FACES), text_height, fixed_pitch=rng.random() < 0.4)
    ink = RECEIPT_INKS[rng.integers(len(RECEIPT_INKS))]
    title_face = pick(rng, TITLE_FACES) if rng.random() < 0.6 else body.face
    look = Look(body, title_face, ink, accent=ink, line_spacing=rng.uniform(1.8, 2.15))
    sheet = texture.paper(rng, size, RECEIPT_PAPERS[rng.integers(len(RECEIPT_PAPERS))])
    setter = Typesetter(rng, config, sheet, margin=rng.uniform(1.2, 2.2) * text_height, look=look)
    _receipt_head(rng, setter)
    _receipt_items(rng, setter)
    _receipt_foot(rng, setter)
    if rng.random() < config.fine_print_share:
        setter.fine_print()
    page = setter.page()
    return page.cropped(min(size[0], round(setter.y + 2 * text_height)))


def _receipt_head(rng: np.random.Generator, setter: Typesetter) -> None:
    if rng.random() < 0.3:
        setter.sign(rng.uniform(1.6, 2.6))
    setter.centred(phrases.shop(rng), scale=rng.uniform(1.2, 1.6))
    setter.centred(phrases.address(rng))
    if rng.random() < 0.7:
        setter.centred(phrases.town(rng))
    if rng.random() < 0.6:
        setter.centred(phrases.phone(rng))
    setter.rule()
    setter.line(phrases.date(rng), phrases.time(rng))
    if rng.random() < 0.5:
        setter.line(f"No {phrases.number(rng, 4)}", f"Till {rng.integers(1, 20)}")
    setter.rule()


def _receipt_items(rng: np.random.Generator, setter: Typesetter) -> None:
    """Sets goods and prices until there is only room for the foot."""
    currency, has_count, has_second_line = pick(rng, ("", "", "$", "£", "€")), rng.random() < 0.35, rng.random() < 0.2
    lines_below = rng.uniform(5, 9)
    while setter.lines_left > lines_below:
        count = f"{rng.integers(1, 9)} " if has_count else ""
        setter.line(count + phrases.goods(rng), phrases.price(rng, currency))
        if has_second_line and rng.random() < 0.4:
            setter.line(f"{rng.integers(2, 9)} @ {phrases.price(rng)}", phrases.price(rng))


def _receipt_foot(rng: np.random.Generator, setter: Typesetter) -> None:
    currency = pick(rng, ("", "$", "£", "€"))
    setter.rule()
    for _ in range(rng.integers(0, 3)):
        setter.line(pick(rng, phrases.SUMS), phrases.price(rng))
    setter.line(pick(rng, phrases.TOTALS), phrases.price(rng, currency), scale=rng.uniform(1.0, 1.5))
    setter.line(pick(rng, phrases.PAYMENTS), phrases.price(rng))
    setter.rule()
    if rng.random() < 0.5:
        setter.bar_code()
    setter.centred(pick(rng, phrases.FAREWELLS), scale=_scale(rng))


def notice(rng: np.random.Generator, config: SyntheticConfig, size: Size, text_height: float) -> Page:
    """Returns a notice or price board of `size` (H, W).

    Capital letters are 1 to 1.5 times `text_height` pixels high, and in titles up to twice that.
    """
    paper_color, ink, accent = NOTICE_COLORS[rng.integers(len(NOTICE_COLORS))]
    face = pick(rng, NOTICE_FACES)
    title_face = pick(rng, TITLE_FACES) if face != "AmaticSCBold" else face
    enlarged = text_height * (rng.uniform(1.3, 1.5) if face == "AmaticSCBold" else rng.uniform(1.0, 1.4))
    text_height = max(text_height, min(enlarged, size[1] / 17))  # an article and its price need 17 heights
    look = Look(Style(face, text_height), title_face, ink, accent, line_spacing=rng.uniform(1.9, 2.4))
    sheet = texture.paper(rng, size, paper_color)
    margin = rng.uniform(1.6, 2.4) * text_height
    if rng.random() < 0.5:
        _draw_frame_(sheet, accent, margin)
    setter = Typesetter(rng, config, sheet, margin, look)
    is_price_board = rng.random() < 0.3
    _notice_head(rng, config, setter, phrases.BOARD_TITLES if is_price_board else phrases.NOTICE_TITLES)
    if is_price_board:
        _price_board(rng, setter)
    else:
        _announcement(rng, setter)
    if rng.random() < config.fine_print_share:
        setter.fine_print()
    return setter.page()


def _notice_head(
    rng: np.random.Generator, config: SyntheticConfig, setter: Typesetter, titles: tuple[str, ...]
) -> None:
    scale, title = rng.uniform(1.4, 2.0), pick(rng, titles)
    if rng.random() < config.arched_share:
        setter.curved_line(title, scale)
        if rng.random() < 0.5:
            setter.curved_line(pick(rng, phrases.NOTICE_LINES), 1.0)
    else:
        setter.centred(title, scale=scale)
    if rng.random() < 0.5:
        setter.sign(rng.uniform(2, 4))
    if rng.random() < 0.5:
        setter.rule()


def _announcement(rng: np.random.Generator, setter: Typesetter) -> None:
    is_centred = rng.random() < 0.6
    while setter.lines_left > 2.2:
        text, scale = pick(rng, phrases.NOTICE_LINES), _scale(rng)
        if is_centred:
            setter.centred(text, scale=scale)
        else:
            setter.line(text, right=phrases.time(rng) if rng.random() < 0.3 else "", scale=scale)
        setter.skip(rng.uniform(0, 0.7))
    setter.centred(phrases.phone(rng) if rng.random() < 0.5 else phrases.date(rng))


def _price_board(rng: np.random.Generator, setter: Typesetter) -> None:
    currency, gap = pick(rng, ("", "$", "£", "€")), rng.uniform(0, 0.4)
    while setter.lines_left > 1:
        setter.line(phrases.goods(rng), phrases.price(rng, currency))
        setter.skip(gap)


def blank(rng: np.random.Generator, size: Size) -> Page:
    """Returns a sheet without text."""
    sheet = texture.paper(rng, size, RECEIPT_PAPERS[rng.integers(len(RECEIPT_PAPERS))])
    return Page(sheet, np.ones(size, np.float32))


def _scale(rng: np.random.Generator) -> float:
    """Returns the scale of a line: running text more often than a title."""
    return 1.0 if rng.random() < 0.7 else rng.uniform(1.15, 1.4)


def _draw_frame_(sheet: texture.FloatImage, color: Color, margin: float) -> None:
    """Draws a frame into the sheet's margin."""
    inset, thickness = int(0.35 * margin), max(2, int(0.12 * margin))
    inside = np.zeros(sheet.shape[:2], bool)
    inside[inset:-inset, inset:-inset] = True
    inside[inset + thickness : -inset - thickness, inset + thickness : -inset - thickness] = False
    sheet[inside] = 0.3 * sheet[inside] + 0.7 * np.array(color, np.float32)
