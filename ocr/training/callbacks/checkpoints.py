"""The best checkpoint of a run."""

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt. A resumed run has its own folder, so the best checkpoint so far is copied there, with its score."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        earlier, score = Path(state_dict["best_model_path"]), state_dict["best_model_score"]
        if earlier.is_file() and score is not None and self.dirpath is not None:
            copied = Path(self.dirpath) / earlier.name
            if copied != earlier:
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(earlier, copied)
            best = {"best_model_path": str(copied), "best_k_models": {str(copied): score}, "dirpath": self.dirpath}
            super().load_state_dict(state_dict | best | {"kth_best_model_path": str(copied)})
