"""A few dozen broken files for each reader; `make fuzz` runs for an hour."""

import logging
import time
import zlib

import pytest

from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.read import FORMATS, read_annotations
from ocr.errors import InputError
from tests.faults.fuzz.fuzzing import LIMIT_SECONDS, fuzz, fuzz_for, report
from tests.faults.fuzz.mutations import PROLOGS
from tests.faults.fuzz.readers import EXTENSIONS, build_readers, seeds_of
from tests.ocr.datasets.formats.samples import write_images

OTHERS = (
    *(
        "drawn upstage",
        "drawn icdar",
        "shard index",
        "audit memo",
        "checkpoint",
        "resume",
        "prediction lines",
        "cache entry",
    ),
    *("maps", "config", "image"),
)
SEEDS = tuple(f"{one.name} {seed.name}" for one in FORMATS for seed in seeds_of(one))
NUM_INPUTS = {True: 5, False: 25}
"""Number of broken files of a reader, by whether it is one of the many annotation formats."""
XML_FORMATS = tuple(one for one in FORMATS if seeds_of(one)[0].suffix == ".xml")


@pytest.fixture(scope="module")
def readers(drawn, tmp_path_factory):
    return {reader.name: reader for reader in build_readers(drawn, tmp_path_factory.mktemp("fuzz"))}


@pytest.mark.parametrize("name", [*SEEDS, *OTHERS])
@pytest.mark.filterwarnings("ignore")
def test_a_reader_accepts_its_valid_files(name, readers):
    for sample in readers[name].samples:
        readers[name].read(sample)


@pytest.mark.parametrize("name", [*SEEDS, *OTHERS])
@pytest.mark.filterwarnings("ignore")
def test_a_broken_file_is_refused_in_words_and_in_time(name, readers, caplog):
    caplog.set_level(logging.CRITICAL)
    first, num_inputs = zlib.crc32(name.encode()), NUM_INPUTS[name in SEEDS]
    outcome = fuzz(readers[name], range(first, first + num_inputs))
    assert {kind: message for kind, (message, _) in outcome.failures.items()} == {}
    assert outcome.counts.total() == num_inputs


@pytest.mark.parametrize("prolog", PROLOGS, ids=("nested", "long", "external", "parameter", "subset"))
@pytest.mark.parametrize("annotation_format", XML_FORMATS, ids=lambda one: one.name)
def test_entities_of_xml_are_neither_expanded_nor_looked_up(annotation_format, prolog, tmp_path):
    (seed, *_) = seeds_of(annotation_format)
    text = seed.read_text().replace("word<", "&a;<") if "word<" in seed.read_text() else seed.read_text()
    head, _, body = text.rpartition("?>")
    (tmp_path / seed.name).write_text(f"{head}{'?>' if head else ''}{prolog}{body}")
    path = tmp_path / seed.name if annotation_format.place == "file" else tmp_path
    images = ImageFolder(write_images(tmp_path), EXTENSIONS)
    started = time.process_time()
    try:
        found = list(read_annotations(path, images, annotation_format.name))
    except InputError:
        found = []
    assert time.process_time() - started < LIMIT_SECONDS
    assert all(not image.words for image in found) or "ENTITY" not in prolog
    assert "root:" not in repr(found)


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")
def test_readers_stand_a_long_run(readers, request, caplog, tmp_path):
    seconds = request.config.getoption("--fuzz-seconds", default=0)
    if not seconds:
        pytest.skip("make fuzz runs it")
    caplog.set_level(logging.CRITICAL)
    option = request.config.getoption
    chosen = [reader for name, reader in readers.items() if option("--fuzz-readers") in name]
    folder = option("--fuzz-folder").absolute()
    totals = fuzz_for(chosen, seconds, option("--fuzz-seed"), folder)
    print("\n" + report(totals, folder))
    assert not any(total.failures for total in totals.values())
