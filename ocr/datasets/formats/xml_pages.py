"""Code shared by PAGE-XML, ALTO and the XML form of CTW1500: one XML file for each image, which it may name itself."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from ocr.datasets.folder_listing import files_with
from ocr.datasets.formats.annotated import AnnotatedImage, AnnotatedWord, FormatProblem
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import NO_FIT, Confidence, Fit
from ocr.datasets.formats.look import Look
from ocr.datasets.formats.safe_xml import XmlProblem, elements, root_name, root_of_beginning

IGNORE_TEXT = "###"


class PageContent(NamedTuple):
    """Content of the XML file of one image."""

    parts: Sequence[AnnotatedWord | FormatProblem]
    declared_size: tuple[float | None, float | None] = (None, None)
    """(H, W) in pixels."""


class XmlPages(NamedTuple):
    """Reader of XML files with one image each."""

    root: str
    """Name of the outermost element."""
    title: str
    """Name of the format, for messages."""
    filename: Callable[[Element], str]
    """Returns the name of the image that the outermost element states; empty without one."""
    read: Callable[[Element, ImageFolder, str], PageContent]
    """Returns the content of the outermost element, which belongs to the image of this name. There may be no such image."""

    def examine(self, look: Look) -> Fit:
        """Judges by the outermost element of the XML file, or of some files of the folder."""
        files = look.files(".xml") if look.is_folder else [look]
        if any(root_of_beginning(file.head) == self.root for file in files):
            return Fit(Confidence.CERTAIN, f"XML of <{self.root}>")
        return NO_FIT

    def images(self, path: Path, images: ImageFolder) -> Iterator[AnnotatedImage]:
        """Yields the images of the XML files at `path`, a folder or one file, sorted by the names of these files.

        Raises:
            FileNotFoundError: there is no XML file.
            OSError: a file cannot be read.
        """
        paths = [path] if path.is_file() else files_with(path, ".xml")
        if not paths:
            raise FileNotFoundError(f"{path}: found no .xml file; expected a folder of {self.title} files")
        for file in paths:
            yield self._image(file, images)

    def _image(self, path: Path, images: ImageFolder) -> AnnotatedImage:
        root, problems = self._root_of(path)
        filename = _existing(images, "" if root is None else self.filename(root))
        if not filename:
            filename, several = images.belonging_to(path.stem)
            problems += several
        if root is None:
            return AnnotatedImage.of(filename, path.name, problems)
        content = self.read(root, images, filename)
        return AnnotatedImage.of(filename, path.name, [*problems, *content.parts], content.declared_size)

    def _root_of(self, path: Path) -> tuple[Element | None, list[FormatProblem]]:
        """Returns the outermost element with all its content, or the reason why there is none."""
        expected = f"a whole {self.title} file, which begins with <{self.root}>"
        try:
            name = root_name(path)
            if name != self.root:
                return None, [FormatProblem(None, f"the XML element <{name}>", expected)]
            (root,) = elements(path, (self.root,))
        except XmlProblem as error:
            return None, [FormatProblem(None, f"no readable XML: {error}", expected)]
        return root, []


def _existing(images: ImageFolder, name: str) -> str:
    """Returns the image of this name, or of this path on another machine; empty if the folder has none."""
    located = images.locate(name.replace("\\", "/")) if name else ""
    return located if located and os.path.isfile(images.path / located) else ""


def unique_keys(names: Sequence[str]) -> list[str]:
    """Returns the names, each with its position if it is empty or comes more than once."""
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"{name}#{place}" for place, name in enumerate(names, 1)]


def points_in(text: str) -> npt.NDArray[np.float64]:
    """Returns the (n, 2) points of "x,y x,y ..." or "x y x y ...".

    Raises:
        ValueError: the text holds something else, or an odd number of numbers.
    """
    return np.array([float(number) for number in text.replace(",", " ").split()]).reshape(-1, 2)
