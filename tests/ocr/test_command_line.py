import pytest

from ocr.command_line import plain_errors
from ocr.errors import StorageError


def test_input_errors_end_a_script_without_a_traceback():
    with pytest.raises(SystemExit, match=r"^StorageError: s3://bucket: gone$"), plain_errors():
        raise StorageError("s3://bucket: gone")
