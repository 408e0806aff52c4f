"""The configuration reference of the site, which a hook writes from the schemas."""

import importlib.util
from pathlib import Path

HOOK = Path(__file__).parents[2] / "docs/hooks/configuration.py"


def test_the_reference_describes_every_kind_of_key():
    spec = importlib.util.spec_from_file_location("configuration_hook", HOOK)
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    text = hook.reference()
    for key in (
        "trainer.max_epochs",
        "datasets.train_dataset.config.sets",
        "dataloader.shard_connections",
        "report.num_images",
    ):
        assert f"#{key} }}" in text
