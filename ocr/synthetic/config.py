"""Number, size and difficulty of the pictures in the synthetic data set."""

from pydantic import Field, model_validator

from dali_pipelines.config import Section


class SyntheticConfig(Section):
    """The synthetic data set of drawn receipts and notices. Equal values give byte-identical files."""

    num_train: int = Field(default=96, ge=1)
    """Number of training images. A larger set starts with the images of a smaller one."""
    num_val: int = Field(default=32, ge=1)
    """Number of validation images, drawn from separate random streams."""
    seed: int = Field(default=7, ge=0, lt=2**63)
    """Seed of the images."""
    min_side: int = Field(default=480, ge=256)
    """Smallest side of an image in pixels."""
    max_side: int = Field(default=900, le=8192)
    """Largest side of an image in pixels. The longer side of every image is at least three quarters of it."""
    min_text_height: float = Field(default=12.0, ge=6)
    """Smallest height of a capital letter of running text, in pixels of the image scaled to a longest side of 640."""
    max_text_height: float = Field(default=17.0, le=64)
    """Largest height of a capital letter of running text, in the same pixels; titles are up to twice as high."""
    max_rotation: float = Field(default=7.0, ge=0, le=30)
    """Largest rotation of a sheet in degrees, in either direction."""
    max_perspective: float = Field(default=0.04, ge=0, le=0.15)
    """Largest displacement of each corner of a sheet, as a share of its shorter side; it imitates a camera held at an angle."""
    notice_share: float = Field(default=0.4, ge=0, le=1)
    """Share of pictures that show notices on a wall; the others show receipts on a table."""
    bent_share: float = Field(default=0.15, ge=0, le=1)
    """Share of sheets that curl, so that their text lines are curved and need more than four points."""
    arched_share: float = Field(default=0.5, ge=0, le=1)
    """Share of notices with a title set on an arc or a wave."""
    blank_share: float = Field(default=0.04, ge=0, le=1)
    """Share of pictures without any text."""
    illegible_share: float = Field(default=0.05, ge=0, le=1)
    """Share of text runs that are smeared or struck out and annotated as don't-care."""
    fine_print_share: float = Field(default=0.15, ge=0, le=1)
    """Share of sheets that end with print too small to read, annotated as don't-care."""
    exif_share: float = Field(default=0.15, ge=0, le=1)
    """Share of files stored rotated or mirrored, with the EXIF orientation (2 to 8) that undoes it."""
    gray_share: float = Field(default=0.06, ge=0, le=1)
    """Share of greyscale files."""
    progressive_share: float = Field(default=0.12, ge=0, le=1)
    """Share of progressive JPEG files."""
    min_quality: int = Field(default=60, ge=5, le=100)
    """Lowest JPEG quality."""
    max_quality: int = Field(default=95, ge=5, le=100)
    """Highest JPEG quality."""

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> "SyntheticConfig":
        for low, high in (
            ("min_side", "max_side"),
            ("min_text_height", "max_text_height"),
            ("min_quality", "max_quality"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low)} is above {high}={getattr(self, high)}")
        return self
