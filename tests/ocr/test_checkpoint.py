import zipfile
from pathlib import Path

import pytest
import torch

from ocr.checkpoint import CONFIG_KEY, average_weights, load_checkpoint, read_weights
from ocr.errors import InputError


def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match="found a folder, expected a file"):
        load_checkpoint(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other\.ckpt: it has no configuration, so another program wrote it"):
        load_checkpoint(tmp_path / "other.ckpt")
    torch.save(torch.zeros(2), tmp_path / "tensor.ckpt")
    with pytest.raises(InputError, match=r"tensor\.ckpt: it has no configuration"):
        load_checkpoint(tmp_path / "tensor.ckpt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"text\n", "a text file of 5 bytes"),
        (b"no checkpoint", "a text file of 13 bytes"),
        (b"\x80\x02}q\x00.", "another kind of file of 6 bytes"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "another kind of file of 98 bytes"),
        (b"PK\x03\x04" + bytes(96), "a damaged or cut archive of 100 bytes"),
    ],
    ids=["empty", "text line", "text", "pickle", "picture", "archive"],
)
def test_a_foreign_file_is_described_in_one_line(tmp_path, content, found):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.ckpt: .*{found}") as caught:
        load_checkpoint(tmp_path / "a.ckpt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"path": Path("a")}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt: found Python objects of another program") as caught:
        load_checkpoint(tmp_path / "a.ckpt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_checkpoint_is_refused(tmp_path, untrained_checkpoint, share):
    content = untrained_checkpoint.read_bytes()
    (tmp_path / "a.ckpt").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="a damaged or cut archive"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_a_checkpoint_with_one_changed_bit_is_refused(tmp_path, untrained_checkpoint):
    content = bytearray(untrained_checkpoint.read_bytes())
    content[len(content) // 2] ^= 1  # among the weights, where torch.load notices nothing
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(InputError, match="a damaged or cut archive"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_a_compressed_archive_is_not_unpacked(tmp_path, untrained_checkpoint):
    with (
        zipfile.ZipFile(untrained_checkpoint) as archive,
        zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(InputError, match=r"not a readable checkpoint: found a damaged or cut archive .*\(BadZipFile\)"):
        load_checkpoint(tmp_path / "a.ckpt")


def _changed(path: Path, source: Path, change) -> Path:
    checkpoint = torch.load(source, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["state_dict"].popitem(), "1 of .* weights are missing"),
        (lambda c: c["state_dict"].update({"model.x": torch.zeros(1)}), "first x;"),
        (lambda c: c.pop("state_dict"), "has no weights"),
        (
            lambda c: c[CONFIG_KEY]["model"].update(fpn_channels="a"),
            "cannot read its configuration: model.fpn_channels",
        ),
        (
            lambda c: c[CONFIG_KEY]["postprocess"].update(unclip_factor=1.1),  # a key of earlier versions
            r"configuration: postprocess.unclip_factor: no such key\. Another version wrote the file: use that one",
        ),
        (lambda c: c["state_dict"][next(iter(c["state_dict"]))].fill_(float("nan")), "1 of .* weights hold NaN"),
        (lambda c: c["state_dict"][next(iter(c["state_dict"]))].fill_(float("inf")), "optimizer.lr"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused_in_one_line(tmp_path, untrained_checkpoint, change, said):
    with pytest.raises(InputError, match=said) as caught:
        load_checkpoint(_changed(tmp_path / "a.ckpt", untrained_checkpoint, change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_an_exported_graph_is_no_file_of_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"graph")
    with pytest.raises(
        InputError, match=f"average={tmp_path / name}: found an exported graph.*give the .ckpt or .safetensors"
    ):
        read_weights(tmp_path / name, "average")


def test_weights_of_several_files_are_averaged(tmp_path, untrained_checkpoint):
    def scaled_by(factor: float):
        def change(content):
            state = content["state_dict"]
            content["state_dict"] = {
                key: value * factor if value.is_floating_point() else value for key, value in state.items()
            }

        return change

    others = [_changed(tmp_path / f"{factor}.ckpt", untrained_checkpoint, scaled_by(factor)) for factor in (2.0, 4.5)]
    _, model = load_checkpoint(untrained_checkpoint)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average_weights(model, others, "average")
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == own[name].dtype
        torch.testing.assert_close(tensor, own[name] * 2.5 if tensor.is_floating_point() else own[name])


def test_weights_of_another_network_are_not_averaged(tmp_path, untrained_checkpoint):
    other = _changed(tmp_path / "other.ckpt", untrained_checkpoint, lambda content: content["state_dict"].popitem())
    _, model = load_checkpoint(untrained_checkpoint)
    with pytest.raises(
        InputError, match=r"average=.*other\.ckpt: 1 of \d+ weights are missing.*expected a file of the same network"
    ):
        average_weights(model, [other], "average")
