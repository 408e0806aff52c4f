"""Words of the drawn receipts and notices."""

from collections.abc import Sequence

import numpy as np

SHOP_NAMES = (
    "Corner", "Green", "Harbour", "Maple", "Old Town", "River", "Station", "Sunny", "Blue Door", "Little", "Golden",
    "North", "Café", "Castle", "Olive", "Copper", "Bella", "Lakeside",
)  # fmt: skip
SHOP_KINDS = (
    "Market", "Bakery", "Deli", "Books", "Pharmacy", "Hardware", "Grocers", "Kitchen", "Garden", "Stores", "Bistro",
    "Express", "Mart", "Foods", "Coffee", "Tools",
)  # fmt: skip
STREETS = ("Mill Road", "High Street", "King Street", "Park Lane", "Church Hill", "Elm Avenue", "Dock Road", "Bay View")
TOWNS = (
    "Ashford", "Brookfield", "Carlton", "Dunmore", "Eastport", "Fairview", "Glenwood", "Hillside", "Kingsley",
    "Norwood",
)  # fmt: skip
GOODS = (
    "Milk", "Bread", "Eggs", "Butter", "Coffee", "Tea", "Apples", "Bananas", "Rice", "Pasta", "Tomatoes", "Cheddar",
    "Yoghurt", "Chicken", "Salmon", "Soap", "Shampoo", "Batteries", "Candles", "Notebook", "Pencils", "Olive Oil",
    "Honey", "Sugar", "Flour", "Orange Juice", "Water", "Biscuits", "Chocolate", "Peanuts", "Potatoes", "Onions",
    "Paint", "Screws", "Light Bulb", "Croissant", "Latte", "Espresso", "Muffin", "Sandwich", "Soup", "Salad",
)  # fmt: skip
KINDS = ("Fresh", "Organic", "Large", "Small", "Whole", "Dark", "Light", "Red", "Local", "Mixed", "Baked", "Salted")
AMOUNTS = ("500g", "1kg", "250ml", "1L", "2L", "6pk", "12pk", "100g", "x2", "0.75L")
SUMS = ("Subtotal", "Net", "VAT 20%", "VAT 5%", "Service 10%", "Discount", "Rounding")
TOTALS = ("TOTAL", "Total", "TOTAL DUE", "Amount due")
PAYMENTS = ("Cash", "VISA", "Debit card", "Mastercard", "Change", "Gift card")
FAREWELLS = ("THANK YOU", "Thank you!", "Please come again", "Have a nice day", "Goods sold final", "See you soon")
NOTICE_TITLES = (
    "NOTICE", "WARNING", "OPEN", "CLOSED", "EXIT", "LOST CAT", "CONCERT", "MEETING", "PARKING", "STAFF ONLY",
    "SUMMER FAIR", "BOOK FAIR", "PRIVATE", "WELCOME", "RECYCLING", "FREE WIFI", "YOGA CLASS", "JAZZ NIGHT",
    "Parking", "House rules",
)  # fmt: skip
BOARD_TITLES = (
    "MENU", "TODAY", "SALE", "BAKE SALE", "PRICES", "Specials", "Lunch", "OFFERS", "Fresh today", "Market day",
)  # fmt: skip
NOTICE_LINES = (
    "Staff only", "Please ring the bell", "Keep this door shut", "No bicycles", "Ask at reception", "Wet floor",
    "Do not enter", "Dogs on lead", "Visitors welcome", "Deliveries at rear", "Half price today", "Every Sunday",
    "Back at noon", "Mind the step", "Use other door", "Tickets at desk", "Fire exit only", "Smile please",
    "Wash your hands", "Mon to Fri", "Second floor", "All items reduced", "Live music", "Doors open at 7",
    "Free entry", "Bring a friend", "Limited seats", "Call for details", "Caution: hot", "Push hard", "Main hall",
    "Open to all", "Until 31 May", "Room to let", "Reward offered", "Last few days",
)  # fmt: skip
FINE_PRINT = (
    "Terms and conditions apply, see inside", "Keep this slip for refunds within 30 days",
    "Printed on recycled paper",
)  # fmt: skip


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """Returns one of the choices."""
    return choices[int(rng.integers(len(choices)))]


def shop(rng: np.random.Generator) -> str:
    return f"{pick(rng, SHOP_NAMES)} {pick(rng, SHOP_KINDS)}"


def address(rng: np.random.Generator) -> str:
    return f"{rng.integers(1, 240)} {pick(rng, STREETS)}"


def town(rng: np.random.Generator) -> str:
    return f"{pick(rng, TOWNS)} {rng.integers(10000, 99999)}"


def phone(rng: np.random.Generator) -> str:
    return f"Tel 0{rng.integers(100, 999)} {rng.integers(100000, 999999)}"


def date(rng: np.random.Generator) -> str:
    day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(2015, 2026)
    written = (
        f"{day:02d}/{month:02d}/{year}",
        f"{year}-{month:02d}-{day:02d}",
        f"{day:02d}.{month:02d}.{year % 100:02d}",
    )
    return pick(rng, written)


def time(rng: np.random.Generator) -> str:
    return f"{rng.integers(7, 22):02d}:{rng.integers(60):02d}"


def price(rng: np.random.Generator, currency: str = "") -> str:
    """Returns an amount; small amounts are more frequent."""
    return f"{currency}{min(0.5 + rng.exponential(9.0), 999.0):.2f}"


def goods(rng: np.random.Generator) -> str:
    """Returns the name of an article, one to three words."""
    words = (
        [pick(rng, KINDS)] * (rng.random() < 0.3) + [pick(rng, GOODS)] + [pick(rng, AMOUNTS)] * (rng.random() < 0.35)
    )
    return " ".join(words)


def number(rng: np.random.Generator, digits: int) -> str:
    return "".join(str(digit) for digit in rng.integers(0, 10, digits))
