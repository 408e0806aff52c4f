import os

from dali_pipelines.signature import signature_of


def test_a_file_that_is_written_or_replaced_has_another_signature(tmp_path):
    file, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    file.write_bytes(b"old")
    before = signature_of(str(file))
    assert signature_of(str(file)) == before
    file.write_bytes(b"longer")
    written = signature_of(str(file))
    other.write_bytes(b"longer")
    os.utime(other, ns=(0, file.stat().st_mtime_ns))  # the same size and time of modification
    other.replace(file)
    assert len({before, written, signature_of(str(file))}) == 3


def test_a_file_that_is_missing_or_at_a_url_has_no_signature(tmp_path):
    assert signature_of(str(tmp_path / "a.jpg")) is None
    assert signature_of("s3://bucket/a.jpg") is None
