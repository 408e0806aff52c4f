"""Fine-tuning: runs that begin with the weights of another one."""

import re
from pathlib import Path

import lightning
import pytest
import torch
from safetensors.torch import save_file

from ocr.checkpoint import load_checkpoint
from ocr.config import ExportConfig, TrainConfig
from ocr.errors import InputError
from ocr.export.run import export
from ocr.synthetic.config import SyntheticConfig
from ocr.synthetic.data_set import draw_data_set
from ocr.training.fit import train
from ocr.training.initial_network import initial_network, with_network_of_file
from ocr.training.resume import resumption

RARE = ("trainer.check_val_every_n_epoch=99", "trainer.val_loss=false")

AUXILIARY = ("loss.auxiliary_weight=0.4", "trainer.ema_decay=0.9", "trainer.limit_train_batches=2", *RARE)


class StopAfterFirstEpoch(lightning.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


@pytest.fixture(scope="module")
def other_run(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on other drawn images."""
    folder = tmp_path_factory.mktemp("other")
    data = draw_data_set(
        SyntheticConfig(num_train=8, num_val=1, min_side=256, max_side=384, seed=7), folder / "data", num_workers=1
    )
    train(tiny_run(f"dataset_base_path={data}", "trainer.max_epochs=6", "optimizer.lr=5e-3", *RARE), folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(other_run) -> Path:
    return other_run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def fine_tuned(tiny_run, checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Folder of a run that began with those weights, half of its backbone frozen, and its training loss."""
    folder = tmp_path_factory.mktemp("tuned")
    overrides = ("trainer.max_epochs=2", "trainer.limit_train_batches=3", "model.freeze=stages:2")
    summary = train(tiny_run(f"init_from={checkpoint}", *overrides), folder)
    return folder, summary["epochs"][0]["train_loss"]


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def saved(path: Path, target: Path, **changes: object) -> Path:
    torch.save(torch.load(path, weights_only=True) | changes, target)
    return target


def test_a_fine_tune_starts_with_a_lower_loss_than_from_scratch(tiny_run, fine_tuned, tmp_path):
    scratch = train(tiny_run("trainer.max_epochs=1", "trainer.limit_train_batches=3", *RARE), tmp_path)
    assert fine_tuned[1] < 0.8 * scratch["epochs"][0]["train_loss"]


def test_frozen_tensors_are_the_same_after_training_and_validation(fine_tuned, checkpoint):
    before, after = state(checkpoint), state(fine_tuned[0] / "checkpoints" / "last.ckpt")
    frozen = [
        name
        for name in before
        if name.startswith(("model.backbone.conv1", "model.backbone.bn1", "model.backbone.layer2"))
    ]
    assert any(name.endswith("running_mean") for name in frozen)
    assert any(name.endswith("num_batches_tracked") for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["model.head.prob.0.0.weight"], after["model.head.prob.0.0.weight"])
    assert not torch.equal(before["model.head.prob.0.1.running_mean"], after["model.head.prob.0.1.running_mean"])


def test_a_run_with_frozen_parts_and_layer_decay_resumes_bit_for_bit(tiny_run, checkpoint, tmp_path):
    overrides = (f"init_from={checkpoint}", "trainer.limit_train_batches=2", "model.freeze=stages:2")
    config = tiny_run(*overrides, "optimizer.layer_decay=0.5", "trainer.save_every_n_steps=2", *RARE)

    train(config, tmp_path / "whole")
    whole = state(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    train(config, tmp_path / "stopped", callbacks=[StopAfterFirstEpoch()])
    resumed = config.model_copy(update={"resume": str(tmp_path / "stopped" / "checkpoints" / "last.ckpt")})
    train(resumed, tmp_path / "resumed")
    ended = state(tmp_path / "resumed" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(whole[name], ended[name]) for name in whole)


def test_settings_of_the_network_come_from_the_file_unless_they_are_given(tiny_run, checkpoint, caplog):
    other = ("model.fpn_channels=32", "model.fpn_kernel_size=7", "model.backbone.name=resnet18")
    config = tiny_run(*other, f"init_from={checkpoint}")
    taken = with_network_of_file(config, {"init_from", "model.freeze"})
    assert (taken.model.fpn_channels, taken.model.backbone.name) == (16, "test_resnet")
    assert taken.model.fpn_kernel_size == 3
    with caplog.at_level("WARNING"):
        mixed = with_network_of_file(config, {"init_from", "model.fpn_channels"})
    assert (mixed.model.fpn_channels, mixed.model.backbone.name) == (32, "test_resnet")
    taking = "To take the file's, add to the command:\n  model.fpn_channels=16\n"
    assert f"of another network:\n  model.fpn_channels: 16 in the file, 32 here\n{taking}" in caplog.text


def test_settings_that_suit_the_weights_are_compared_but_stay(tiny_run, checkpoint, caplog):
    other = ("postprocess.unclip_offset=1", "targets.max_text_weight=8")
    with caplog.at_level("INFO"):
        config = with_network_of_file(tiny_run(f"init_from={checkpoint}", *other), {"init_from"})
    assert (config.postprocess.unclip_offset, config.targets.max_text_weight) == (1, 8)
    (record,) = caplog.records
    first, text_weight, offset, advice, taking = record.getMessage().splitlines()
    assert first.endswith("trained with other settings. This run keeps its own, which may suit your data better:")
    assert text_weight == "  targets.max_text_weight: 1 in the file, 8 here (largest weight of small text in the loss)"
    assert offset.startswith("  postprocess.unclip_offset: 0.0 in the file, 1.0 here (pixels by which every box grows")
    assert advice == "To take the file's, add to the command:"
    assert taking == "  targets.max_text_weight=1 postprocess.unclip_offset=0.0"


def test_tensors_that_do_not_fit_are_listed_and_the_others_loaded(tiny_run, checkpoint, caplog):
    config = tiny_run(f"init_from={checkpoint}", "model.fpn_channels=32")
    with caplog.at_level("WARNING"):
        network = initial_network(config)
    assert (
        "  fpn.lateral: 20 tensors, first fpn.lateral.0.0.weight (16x32x1x1 in the file, 32x32x1x1 here)\n"
        in caplog.text
    )
    listed = re.findall(r"^  \S+: (\d+) tensors?, ", caplog.text, re.MULTILINE)
    num_fitting, num_all = map(int, re.findall(r"(\d+) of (\d+) tensors fit; left at random:\n", caplog.text)[0])
    assert sum(map(int, listed)) == num_all - num_fitting  # each of them
    weights = state(checkpoint)
    assert torch.equal(network.state_dict()["backbone.conv1.0.weight"], weights["model.backbone.conv1.0.weight"])


def test_a_large_kernel_keeps_its_start_where_the_file_has_none(tiny_run, checkpoint, caplog):
    with caplog.at_level("WARNING"):
        network = initial_network(tiny_run(f"init_from={checkpoint}", "model.fpn_kernel_size=7"))
    assert "left at random:\n  fpn.smooth: " in caplog.text
    assert "first fpn.smooth.0.0.large.0.weight (not in the file)" in caplog.text
    num_fitting, num_all, num_listed = map(
        int, re.search(r"(\d+) of (\d+) tensors fit;.*:\n.*: (\d+) tensors", caplog.text).groups()
    )
    assert num_all - num_fitting == num_listed  # counters of batch norms that the file lacks count as fitting
    weights = state(checkpoint)
    assert torch.equal(network.state_dict()["fpn.lateral.0.0.weight"], weights["model.fpn.lateral.0.0.weight"])
    assert torch.equal(network.state_dict()["head.prob.0.0.weight"], weights["model.head.prob.0.0.weight"])


@pytest.fixture(scope="module")
def with_auxiliary_head(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run with an auxiliary head and averaged weights."""
    folder = tmp_path_factory.mktemp("auxiliary")
    train(tiny_run(*AUXILIARY), folder)
    return folder / "checkpoints" / "last.ckpt"


def test_an_auxiliary_head_is_trained_but_only_a_resumed_run_loads_it(tiny_run, with_auxiliary_head, caplog):
    weights = state(with_auxiliary_head)
    assert weights["model.auxiliary.head.thresh.0.1.running_mean"].any()
    network = load_checkpoint(with_auxiliary_head)[1]
    assert network.auxiliary is None
    with caplog.at_level("INFO"):
        for weight in (0, 0.4):
            tuned = initial_network(tiny_run(f"init_from={with_auxiliary_head}", f"loss.auxiliary_weight={weight}"))
            assert (tuned.auxiliary is None) == (weight == 0)
    assert caplog.text.count(f"all {len(network.state_dict())} tensors of the network are loaded") == 2
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[f"model.{name}"])


def test_a_run_with_an_auxiliary_head_resumes_bit_for_bit(tiny_run, with_auxiliary_head, tmp_path):
    config = tiny_run(*AUXILIARY)
    train(config, tmp_path / "stopped", callbacks=[StopAfterFirstEpoch()])
    train(config.model_copy(update={"resume": str(tmp_path / "stopped/checkpoints/last.ckpt")}), tmp_path / "resumed")
    whole, ended = state(with_auxiliary_head), state(tmp_path / "resumed/checkpoints/last.ckpt")
    assert whole.keys() == ended.keys()
    assert all(torch.equal(whole[name], ended[name]) for name in whole)


def test_another_weight_of_the_auxiliary_head_may_resume_but_not_without_the_head(
    tiny_run, with_auxiliary_head, tmp_path
):
    longer = [*AUXILIARY, f"resume={with_auxiliary_head}", "trainer.max_epochs=3", "resume_anyway=true"]
    resumption(tiny_run(*longer, "loss.auxiliary_weight=0.2"), None, tmp_path)
    with pytest.raises(InputError, match=r"auxiliary_weight: 0\.4 in the checkpoint, 0\.0 given; leave these"):
        resumption(tiny_run(*longer, "loss.auxiliary_weight=0"), None, tmp_path)


def test_frozen_random_weights_are_warned_of_also_where_a_file_lacks_them(tiny_run, checkpoint, caplog):
    frozen = ("model.freeze=stages:2",)
    other_backbone = (f"init_from={checkpoint}", "model.backbone.name=mobilenetv3_small_075")
    for overrides, is_random in (((), True), (other_backbone, True), ((f"init_from={checkpoint}",), False)):
        caplog.clear()
        with caplog.at_level("WARNING"):
            initial_network(tiny_run(*frozen, *overrides))
        assert ("model.freeze=stages:2 keeps random weights" in caplog.text) == is_random


def test_frozen_statistics_of_random_weights_are_warned_of_and_those_of_a_file_kept(tiny_run, checkpoint, caplog):
    with caplog.at_level("WARNING"):
        initial_network(tiny_run("model.batch_norm=frozen"))
        initial_network(tiny_run("model.batch_norm=frozen_backbone"))
        initial_network(tiny_run(f"init_from={checkpoint}", "model.batch_norm=frozen", "model.fpn_kernel_size=7"))
    assert caplog.text.count("statistics of random weights") == 3
    assert "in 12 batch norms, such as fpn.smooth.3.3" in caplog.text  # those that the file does not have
    caplog.clear()
    overrides = (f"init_from={checkpoint}", "model.batch_norm=frozen", "model.batch_norm_momentum=0.02")
    network = initial_network(tiny_run(*overrides)).train()
    assert "random" not in caplog.text
    norm = network.head.prob[0][1]
    assert (norm.training, norm.momentum) == (False, 0.02)
    assert torch.equal(norm.running_mean, state(checkpoint)["model.head.prob.0.1.running_mean"])


def test_averaged_weights_are_those_that_are_loaded(tiny_run, checkpoint, tmp_path):
    whole = torch.load(checkpoint, weights_only=True)
    raw = {name: tensor + 1 for name, tensor in whole["state_dict"].items()}
    path = saved(checkpoint, tmp_path / "averaged.ckpt", current_model_state=raw)
    network = initial_network(tiny_run(f"init_from={path}"))
    assert torch.equal(network.state_dict()["head.prob.0.0.weight"], whole["state_dict"]["model.head.prob.0.0.weight"])


def test_files_that_do_not_suit_are_refused_in_one_line(tiny_run, checkpoint, tmp_path):
    weights = {name: tensor.clone() for name, tensor in state(checkpoint).items()}
    weights["model.head.prob.0.0.weight"][0] = float("nan")
    nan = saved(checkpoint, tmp_path / "nan.ckpt", state_dict=weights)
    foreign = saved(checkpoint, tmp_path / "foreign.ckpt", state_dict={"model.other": torch.zeros(3)})
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    expected = {
        nan: "hold NaN",
        foreign: "none of its 1 tensors fits",
        tmp_path / "cut.ckpt": "damaged or cut",
        tmp_path / "cut.safetensors": "damaged or cut",
    }
    for path, message in expected.items():
        with pytest.raises(InputError, match=message) as raised:
            initial_network(tiny_run(f"init_from={path}"))
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith(f"init_from={path}: ")
    with pytest.raises(FileNotFoundError, match="init_from=nowhere"):
        initial_network(tiny_run("init_from=nowhere"))


def test_resume_wins_over_init_from_only_in_a_run_that_began_with_it(tiny_run, fine_tuned, checkpoint, tmp_path):
    last = fine_tuned[0] / "checkpoints" / "last.ckpt"
    overrides = (f"resume={last}", "trainer.limit_train_batches=3", "model.freeze=stages:2", "trainer.max_epochs=3")
    start = resumption(tiny_run(f"init_from={checkpoint}", *overrides), None, tmp_path)
    assert start.config.resume == str(last)
    with pytest.raises(InputError, match=r"init_from: .*last.ckpt in the checkpoint, other.ckpt given"):
        resumption(tiny_run("init_from=other.ckpt", *overrides), None, tmp_path)


def test_a_resumed_run_does_not_need_the_file_it_began_with(tiny_run, fine_tuned):
    last = fine_tuned[0] / "checkpoints" / "last.ckpt"
    config = tiny_run("init_from=gone.ckpt").model_copy(update={"resume": str(last)})
    assert initial_network(config).frozen == []


def test_a_resumed_run_does_not_need_the_weights_of_the_backbone(tiny_run, checkpoint):
    config = tiny_run("model.backbone.weights=gone.pth").model_copy(update={"resume": str(checkpoint)})
    assert initial_network(config).state_dict().keys() == initial_network(tiny_run()).state_dict().keys()


def test_a_backbone_takes_its_weights_from_a_checkpoint_of_ours(tiny_run, checkpoint):
    network = initial_network(tiny_run(f"model.backbone.weights={checkpoint}", "model.fpn_channels=32"))
    weights = state(checkpoint)
    assert torch.equal(network.state_dict()["backbone.conv1.0.weight"], weights["model.backbone.conv1.0.weight"])


def test_exported_weights_carry_all_but_the_places_of_this_machine(tiny_run, checkpoint, drawn, tmp_path):
    (tmp_path / "card.md").write_text("# Card")
    output = tmp_path / "weights.safetensors"
    comparison = export(
        ExportConfig(
            checkpoint=str(checkpoint),
            output=str(output),
            format="safetensors",
            precision="float16",
            images=str(drawn / "images" / "val"),
            num_images=2,
            license="Apache-2.0",
            card=str(tmp_path / "card.md"),
        )
    )
    assert comparison.largest_difference < 0.01
    assert output.stat().st_size < 0.7 * sum(tensor.nbytes for tensor in state(checkpoint).values())
    content = output.read_bytes()
    assert b"Apache-2.0" in content
    assert b"# Card" in content
    assert str(tmp_path.parent).encode() not in content
    config, network = load_checkpoint(output)
    assert config.model.fpn_channels == 16
    assert network.head.prob[0][0].weight.dtype == torch.float32
    tuned = with_network_of_file(TrainConfig(init_from=str(output)), {"init_from"})
    assert tuned.model.backbone.name == "test_resnet"
    loaded = initial_network(tuned).state_dict()
    wanted = {name.removeprefix("model."): tensor for name, tensor in state(checkpoint).items()}
    torch.testing.assert_close(loaded["head.prob.0.0.weight"], wanted["head.prob.0.0.weight"], rtol=1e-3, atol=1e-6)
    assert torch.equal(loaded["head.prob.0.1.running_var"], wanted["head.prob.0.1.running_var"])


def test_bare_tensors_begin_a_run_but_do_not_predict(tiny_run, checkpoint, tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file({name.removeprefix("model."): tensor.contiguous() for name, tensor in state(checkpoint).items()}, path)
    network = initial_network(with_network_of_file(tiny_run(f"init_from={path}"), None))
    assert torch.equal(network.state_dict()["head.prob.0.0.weight"], state(checkpoint)["model.head.prob.0.0.weight"])
    with pytest.raises(InputError, match="no configuration"):
        load_checkpoint(path)
