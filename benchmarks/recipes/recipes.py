"""The recipes: groups of changes to one baseline each.

Overrides are those of scripts/train.py and scripts/evaluate.py. In them, $data is the folder of the data sets, $weights that of
ImageNet weights and $work that of files made here; $checkpoint is the network of the evaluation recipes, and $start the one that
fine-tuning begins with.
"""

from dataclasses import dataclass

from benchmarks.recipes.pasted import PastedConfig
from ocr.synthetic.config import SyntheticConfig


@dataclass(frozen=True)
class Recipe:
    """One change to the baseline of its group."""

    name: str
    overrides: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Group:
    """A baseline and the changes that are compared with it."""

    name: str
    title: str
    script: str
    """train or evaluate."""
    common: tuple[str, ...]
    """Overrides of the baseline and of all recipes."""
    baseline: Recipe
    recipes: tuple[Recipe, ...]
    notes: tuple[str, ...] = ()
    """Sentences below the table: what its figures do not show."""
    all_seeds: bool = False
    """Whether every recipe is measured with all seeds at once; else only with the first, and with the others where it is close."""

    images: str = "receipts"
    """Name of the scores if the validation has one set."""

    @property
    def has_seeds(self) -> bool:
        """Whether the result depends on the seed."""
        return self.script == "train"

    def overrides_of(self, recipe: Recipe) -> list[str]:
        """Returns the overrides of the whole command; the recipe's come last and win."""
        return [*self.common, *recipe.overrides]


NUM_STEPS = 360
"""Training steps of the baseline: two epochs of 718 images in batches of 4."""
FEW_RECEIPTS = 20
"""Receipts of the fine-tuning: the first training receipts by name."""

_IMAGENET = "model.backbone.weights=$weights/mobilenetv2_100.safetensors"
_RANDOM = "model.backbone.weights=null"
_SMALL = (
    "experiment=small",
    _IMAGENET,
    "pipeline.num_threads=1",
    "postprocess.num_workers=0",
    "logger.tensorboard=false",
    "trainer.ema_decay=0.998",
)


def _sets(made: str, weight: int) -> str:
    """Returns the override of the training sets: the four real ones, each image as likely as without weights, and a made one."""
    real = {"sroie_lines": 160, "sroie_more": 153, "icdar15_words": 90, "icdar15_more": 315}
    folders = {f"$data/{name}": number for name, number in real.items()} | {f"$work/{made}": weight}
    sets = [
        f"{{name:{folder.rpartition('/')[2]},weight:{number},image_path:{folder}/images/train,"
        f"annotation_path:{folder}/jsons/train.json}}"
        for folder, number in folders.items()
    ]
    return f"datasets.train_dataset.config.sets=[{','.join(sets)}]"


_HARDER = SyntheticConfig(
    num_train=240, num_val=1, min_side=700, max_side=1280, min_text_height=6, max_text_height=12, min_quality=40
)
DRAWN = {"drawn": SyntheticConfig(num_train=240, num_val=1, min_side=700, max_side=1280), "drawn_harder": _HARDER}
"""Sets of drawn pictures, by their folder below $work."""
PASTED = {"pasted": PastedConfig()}
"""Sets of real pictures with words pasted, by their folder below $work."""

_SAME_STEPS = f"trainer.limit_train_batches={NUM_STEPS // 2}"

_XEON = (
    "one core of an Intel Xeon (2.8 GHz) in float32, with other programs on it; tables without this note: one core of an AMD EPYC "
    "in bfloat16, so the times do not compare"
)
_SHORT = (
    "a run of 360 steps is short: what helps it need not help a run of 50 epochs, and its scores on scenes are low",
    "the validation has 30 scenes, whose scores vary most",
)

_TWO_EPOCHS = (
    "data=sroie_and_icdar15",
    "dataset_base_path=$data",
    *_SMALL,
    "pipeline.augmentation.crop_size=384",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=2",
)

TRAINING = Group(
    "training",
    "Training, one change at a time",
    "train",
    _TWO_EPOCHS,
    Recipe("baseline", (), "experiment=small with two epochs of smaller crops"),
    (
        Recipe(
            "loss per image",
            ("loss.per_image=true",),
            "crowded receipts and sparse scenes count alike: nine tenths of the text pixels are in receipts",
        ),
        Recipe("small text x8", ("targets.max_text_weight=8",), "single digits count as much as words and short lines"),
        Recipe("no average", ("trainer.ema_decay=null",), "does the moving average of the weights help a short run?"),
        Recipe("random backbone", (_RANDOM,), "what are ImageNet weights worth?"),
        Recipe("maps at stride 4", ("targets.map_stride=4",), "a quarter of the pixels of the maps, a cheaper head"),
        Recipe("shrink 0.4", ("targets.shrink_ratio=0.4",), "the ratio of the DBNet paper"),
        Recipe(
            "narrow scales",
            ("pipeline.augmentation.scale_min=0.7", "pipeline.augmentation.scale_max=1.4"),
            "less variation is easier to learn in a short run",
        ),
        Recipe(
            "crop 512",
            ("pipeline.augmentation.crop_size=512",),
            "as many crops of 1.8 times the pixels",
        ),
        Recipe("learning rate x2", ("optimizer.lr=3.0e-3",), ""),
        Recipe("drawn 20 %", (_sets("drawn", 180), _SAME_STEPS), "the drawer's pictures as a fifth of the samples"),
        Recipe(
            "drawn harder 20 %",
            (_sets("drawn_harder", 180), _SAME_STEPS),
            "the same with text half as high and stronger JPEG compression",
        ),
        Recipe(
            "efficientnet_lite0",
            (
                "model.backbone.name=efficientnet_lite0",
                "model.backbone.weights=$weights/efficientnet_lite0.safetensors",
            ),
            "another small network with ImageNet weights",
        ),
        Recipe(
            "perspective",
            ("pipeline.augmentation.perspective=0.1",),
            "photographs are taken at an angle: text at the near end is up to 1.22 times as tall as at the far end",
        ),
        Recipe(
            "focal and dice loss",
            ("loss.shrink_loss=focal_dice",),
            "all pixels of the shrink map in place of text and hard negatives",
        ),
        Recipe("kernels of 7", ("model.fpn_kernel_size=7",), "large depthwise kernels in the feature pyramid"),
        Recipe("auxiliary head", ("loss.auxiliary_weight=0.4",), "a second head at stride 8 in training"),
        Recipe(
            "frozen statistics of the backbone",
            ("model.batch_norm=frozen_backbone",),
            "batches of 4 images normalised by the statistics of the initial weights",
        ),
        Recipe(
            "slower batch-norm statistics",
            ("model.batch_norm_momentum=0.02",),
            "statistics for evaluation from more batches",
        ),
    ),
    notes=(
        *_SHORT,
        "the baseline, no average, random backbone, maps at stride 4 and shrink 0.4 were measured with a slower gradient of "
        "depthwise convolutions than the other rows, so their processor times are higher than they would be now",
    ),
)


def _named(name: str) -> Recipe:
    """Returns a recipe of the training group, to try it from another baseline."""
    return next(recipe for recipe in TRAINING.recipes if recipe.name == name)


_FOCAL_DICE = _named("focal and dice loss")

ON_FOCAL_DICE = Group(
    "on_focal_dice",
    "Training with focal and dice loss, one change at a time",
    "train",
    (*_TWO_EPOCHS, *_FOCAL_DICE.overrides),
    Recipe("baseline", (), "experiment=small with the loss that was clearly better, two epochs of smaller crops"),
    (
        _named("maps at stride 4"),
        Recipe(
            "words pasted 20 %",
            (_sets("pasted", 180), _SAME_STEPS),
            "a fifth of the samples are training images with words of other training images, half of them short, on free places",
        ),
        Recipe("threshold map x0.5", ("loss.thresh_weight=5",), "half the weight of the threshold map"),
        Recipe("no binary map", ("loss.binary_weight=0",), "is the dice loss of the binary map of use?"),
        Recipe("adaptive fusion", ("model.adaptive_fusion=true",), "the attention of DBNet++"),
        Recipe("batch 8", ("dataloader.batch_size=8",), "half the steps, each with twice the images"),
        Recipe("maps at stride 1", ("targets.map_stride=1",), "maps at the resolution of the image"),
        Recipe("shrink 0.5", ("targets.shrink_ratio=0.5",), "between the paper's ratio and the baseline's"),
        Recipe("binary map x2", ("loss.binary_weight=2",), "more weight on whole regions"),
        Recipe(
            "wide scales",
            ("pipeline.augmentation.scale_min=0.35", "pipeline.augmentation.scale_max=2.5"),
            "more variation of the text height",
        ),
        Recipe("no rotation", ("pipeline.augmentation.rotation_degrees=0",), ""),
        Recipe("rotation 15", ("pipeline.augmentation.rotation_degrees=15",), ""),
        Recipe("learning rate x0.5", ("optimizer.lr=7.5e-4",), ""),
        Recipe(
            "frozen stages 1-2", ("model.freeze=stages:2",), "ImageNet's first stages with their batch-norm statistics"
        ),
        Recipe(
            "lower rate by depth", ("optimizer.layer_decay=0.7",), "the backbone is trained already, the head is not"
        ),
        Recipe("drawn 50 %", (_sets("drawn", 718), _SAME_STEPS), "half of the samples are drawn"),
        Recipe(
            "crop 256",
            (
                "pipeline.augmentation.crop_size=256",
                "dataloader.batch_size=9",
                "trainer.max_epochs=4",
                "trainer.check_val_every_n_epoch=4",
            ),
            "more and smaller crops: the same pixels in a step, 320 steps",
        ),
        Recipe("polynomial schedule", ("optimizer.schedule=poly",), "the schedule of the DBNet paper"),
        Recipe("constant rate", ("optimizer.schedule=constant",), "does the decay of the learning rate help?"),
        Recipe(
            "no colours",
            (
                "pipeline.augmentation.brightness=0",
                "pipeline.augmentation.contrast=0",
                "pipeline.augmentation.saturation=0",
                "pipeline.augmentation.hue_degrees=0",
            ),
            "no change of colours",
        ),
        Recipe("weight decay x10", ("optimizer.weight_decay=1.0e-3",), ""),
        Recipe("pyramid of 64", ("model.fpn_channels=64",), "a narrower head"),
        Recipe("pyramid of 128", ("model.fpn_channels=128",), "a wider head"),
        Recipe("resnet18", ("model.backbone.name=resnet18", _RANDOM), "a larger network from random weights"),
    ),
    notes=(
        _XEON,
        "on receipts, seed 1 of the baseline is 0.13 below the other two, so rows of this seed alone look better beside it than "
        "they are",
        *_SHORT,
    ),
)


def _preset(name: str, folder: str, weights: str, num_epochs: int, num_images: int) -> Group:
    """Returns the group that tries the one clear winner of the training recipes in a preset."""
    return Group(
        name,
        f"experiment={name}_cpu, two losses",
        "train",
        (
            "data=upstage",
            f"dataset_base_path=$data/{folder}",
            f"experiment={name}_cpu",
            weights,
            "loss.shrink_loss=balanced_bce",
            "pipeline.num_threads=1",
            "postprocess.num_workers=0",
            "logger.tensorboard=false",
            f"trainer.max_epochs={num_epochs}",
            f"trainer.check_val_every_n_epoch={num_epochs // 2}",
        ),
        Recipe("balanced cross-entropy", (), f"the paper's loss; {num_epochs} epochs of {num_images} images"),
        (_FOCAL_DICE,),
        notes=(_XEON,),
        all_seeds=True,
        images=name,
    )


RECEIPTS = _preset("receipts", "sroie_lines", _RANDOM, 16, 160)
SCENES = _preset("scenes", "icdar15_words", _IMAGENET, 40, 90)

EVALUATION = Group(
    "evaluation",
    "Evaluation of one checkpoint, one change at a time",
    "evaluate",
    ("checkpoint=$checkpoint", "split=val", "data=sroie_and_icdar15", "dataset_base_path=$data", "report.num_images=0"),
    Recipe("as trained", (), "the checkpoint with its own settings"),
    (
        Recipe("box_thresh 0.5", ("postprocess.box_thresh=0.5",), "more boxes"),
        Recipe("box_thresh 0.7", ("postprocess.box_thresh=0.7",), "fewer boxes"),
        Recipe("bin_thresh 0.2", ("postprocess.bin_thresh=0.2",), "larger regions"),
        Recipe("bin_thresh 0.4", ("postprocess.bin_thresh=0.4",), "smaller regions"),
        Recipe("image_size 960", ("image_size=960",), "fewer pixels, faster"),
        Recipe("image_size 1600", ("image_size=1600",), "higher text"),
        Recipe("polygons", ("postprocess.output=polygon",), "outlines in place of rectangles"),
        Recipe(
            "unclip 1.2",
            ("postprocess.unclip_ratio=1.2",),
            "a fixed ratio in place of the exact inverse of the shrinking",
        ),
        Recipe("unclip 1.5", ("postprocess.unclip_ratio=1.5",), "the fixed ratio of the DBNet paper"),
        Recipe("unclip offset 0", ("postprocess.unclip_offset=0",), "smaller boxes, as the targets have them"),
        Recipe("unclip offset 1.5", ("postprocess.unclip_offset=1.5",), "larger boxes"),
        Recipe("min_side 2", ("postprocess.min_side=2",), "keeps lower text"),
        Recipe("min_side 6", ("postprocess.min_side=6",), "drops lower text"),
        Recipe("image_size 1920", ("image_size=1920",), "still higher text"),
        Recipe("tiles", ("tile=auto",), "large pages in tiles at which text is 8 pixels high"),
    ),
    notes=("one checkpoint on the validation images: no seeds, so no verdict on small differences",),
)

FINE_TUNING = Group(
    "fine_tuning",
    "Fine-tuning on 20 receipts against training on 160",
    "train",
    ("data=upstage", "dataset_base_path=$data/sroie_lines", *_SMALL),
    Recipe(
        "160 receipts, ImageNet backbone",
        ("trainer.max_epochs=12", "trainer.check_val_every_n_epoch=3"),
        "1,920 samples, 480 steps",
    ),
    (
        Recipe(
            "20 receipts, from a trained detector",
            (
                "datasets.train_dataset.config.annotation_path=$work/few_receipts.json",
                "init_from=$start",
                "optimizer.lr=5.0e-4",
                "trainer.max_epochs=16",
                "trainer.check_val_every_n_epoch=8",
            ),
            "320 samples, 80 steps",
        ),
    ),
    notes=(
        "the trained detector is a run of data=sroie_and_icdar15: it has seen the 20 receipts and the other 140 before, but none "
        "of the 60 of the validation",
        "the 20 receipts are the first training receipts by name",
    ),
    all_seeds=True,
)

# These changes mean the same in a run of one more epoch.
_ALSO_CONTINUING = (
    *("loss per image", "small text x8", "no average", "narrow scales", "threshold map x0.5", "binary map x2"),
    *("no rotation", "perspective", "drawn 20 %", "words pasted 20 %", "focal and dice loss"),
    *("frozen statistics of the backbone", "slower batch-norm statistics"),
)

CONTINUING = Group(
    "continuing",
    "Continuing from a trained detector, one change at a time",
    "train",
    (
        "data=sroie_and_icdar15",
        "dataset_base_path=$data",
        *_SMALL,
        "init_from=$start",
        "optimizer.lr=3.0e-4",
        "trainer.ema_decay=0.99",
        "trainer.max_epochs=1",
        "trainer.check_val_every_n_epoch=1",
    ),
    Recipe("as before", (), "experiment=small for one more epoch of 180 steps, at a fifth of its learning rate"),
    (
        *(recipe for recipe in (*TRAINING.recipes, *ON_FOCAL_DICE.recipes) if recipe.name in _ALSO_CONTINUING),
        Recipe("negatives x2", ("loss.negative_ratio=6",), "more background pixels in the loss"),
        Recipe(
            "crop 768",
            ("pipeline.augmentation.crop_size=768", "dataloader.batch_size=2"),
            "whole lines of receipts; as many samples, 2.25 times the pixels",
        ),
        Recipe("learning rate x0.3", ("optimizer.lr=1.0e-4",), ""),
        Recipe("learning rate x3", ("optimizer.lr=1.0e-3",), ""),
        Recipe(
            "frozen backbone", ("model.freeze=backbone",), "the head alone, with the backbone's batch-norm statistics"
        ),
    ),
    notes=("the trained detector has seen all training images of this table before",),
)

GROUPS = (TRAINING, ON_FOCAL_DICE, RECEIPTS, SCENES, CONTINUING, FINE_TUNING, EVALUATION)
