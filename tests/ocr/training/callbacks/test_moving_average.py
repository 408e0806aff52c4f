import torch
from torch import nn

from ocr.training.callbacks.moving_average import Average
from ocr.training.host_sync import ForbidHostSync

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def change(model: nn.Module) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().add_(torch.ones_like(tensor))


def test_the_first_update_copies_and_the_others_mix():
    model = network()
    average = Average(model, CPU, decay=0.1)
    change(model)
    average.update_parameters(model)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, first[name]) for name, tensor in average.module.state_dict().items())
    change(model)
    average.update_parameters(model)
    for name, tensor in average.module.state_dict().items():
        expected = first[name] + (0.9 if tensor.is_floating_point() else 1)
        torch.testing.assert_close(tensor, expected)
    assert average.n_averaged == 2


def test_a_loaded_average_continues():
    model = network()
    before = Average(model, CPU, decay=0.5)
    before.update_parameters(model)
    resumed = Average(network(), CPU, decay=0.5)
    resumed.update_parameters(model)
    resumed.load_state_dict(before.state_dict())
    weight = model[0].weight.detach().clone()
    change(model)
    resumed.update_parameters(model)
    torch.testing.assert_close(resumed.module[0].weight, weight + 9 / 11)
    assert resumed.n_averaged == 2


def test_the_decay_grows_from_update_to_update_up_to_its_value():
    model = network()
    average = Average(model, CPU, decay=0.5)
    with torch.no_grad():
        model[0].weight.zero_()
    average.update_parameters(model)
    expected = torch.zeros_like(model[0].weight)
    for number in range(1, 20):
        with torch.no_grad():
            model[0].weight.fill_(float(number))
        average.update_parameters(model)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * number
    torch.testing.assert_close(average.module[0].weight, expected)


def test_an_average_of_450_steps_with_decay_0_998_has_left_the_first_weights():
    model = network()
    average = Average(model, CPU, decay=0.998)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        average.update_parameters(model)
        model[0].weight.zero_()
        for _ in range(449):
            average.update_parameters(model)
    assert float(average.module[0].weight.detach().max()) < 1e-6


def test_an_update_never_waits_for_the_device():
    model = network()
    average = Average(model, CPU, decay=0.9)
    average.update_parameters(model)
    with ForbidHostSync():
        average.update_parameters(model)
