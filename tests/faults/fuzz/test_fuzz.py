"""A few dozen broken files for each reader; `make fuzz` runs for an hour."""

import logging
import zlib

import pytest

from tests.faults.fuzz.fuzzing import fuzz, fuzz_for, report
from tests.faults.fuzz.readers import JSON_FORMS, build_readers

NAMES = ("upstage", "icdar", *JSON_FORMS, "shard index", "checkpoint", "cache entry", "maps", "config", "image")
NUM_INPUTS = 25


@pytest.fixture(scope="module")
def readers(drawn, tmp_path_factory):
    return {reader.name: reader for reader in build_readers(drawn, tmp_path_factory.mktemp("fuzz"))}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_reader_accepts_its_valid_files(name, readers):
    for sample in readers[name].samples:
        readers[name].read(sample)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_broken_file_is_refused_in_words_and_in_time(name, readers, caplog):
    caplog.set_level(logging.CRITICAL)
    outcome = fuzz(readers[name], range(zlib.crc32(name.encode()), zlib.crc32(name.encode()) + NUM_INPUTS))
    assert {kind: message for kind, (message, _) in outcome.failures.items()} == {}
    assert outcome.counts.total() == NUM_INPUTS


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")
def test_readers_stand_a_long_run(readers, request, caplog, tmp_path):
    seconds = request.config.getoption("--fuzz-seconds", default=0)
    if not seconds:
        pytest.skip("make fuzz runs it")
    caplog.set_level(logging.CRITICAL)
    totals = fuzz_for(list(readers.values()), seconds, request.config.getoption("--fuzz-seed"))
    print("\n" + report(totals, tmp_path))
    assert not any(total.failures for total in totals.values())
