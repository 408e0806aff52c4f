import pytest

from ocr.config import TrainerConfig
from ocr.errors import InputError
from ocr.placement import Placement
from ocr.training.devices import check_settings, num_devices

ELASTIC = Placement("torchrun", 0, 4, 0, "0", "node-a", 29500)


@pytest.mark.parametrize(("devices", "number"), [("auto", 1), (1, 1), (3, 3), ("2", 2)])
def test_devices_on_a_cpu_are_processes(devices, number):
    assert num_devices(TrainerConfig(devices=devices), "cpu") == number


@pytest.mark.parametrize("devices", [-1, "0,1", "0", 100_000])
def test_devices_that_a_cpu_does_not_have_are_refused(devices):
    with pytest.raises(InputError, match=rf"trainer\.devices={devices} on a CPU"):
        num_devices(TrainerConfig(devices=devices), "cpu")


@pytest.mark.parametrize(("devices", "nodes"), [("auto", 1), (1, 1), (2, 2), (2, 1), (-1, 1), ("0,3", 1)])
def test_settings_that_leave_the_number_to_torchrun_or_agree_are_accepted(devices, nodes):
    check_settings(TrainerConfig(devices=devices, num_nodes=nodes), ELASTIC, local_world_size=2, num_nodes=2)


@pytest.mark.parametrize(
    ("devices", "nodes", "named"), [(3, 1, "devices=3"), ("0,1,2", 1, "devices=0,1,2"), (2, 3, "num_nodes=3")]
)
def test_settings_that_contradict_torchrun_are_refused_in_one_line(devices, nodes, named):
    with pytest.raises(InputError, match=rf"^found trainer\.{named}, but (torchrun|with torchrun) [^\n]+$"):
        check_settings(TrainerConfig(devices=devices, num_nodes=nodes), ELASTIC, local_world_size=2, num_nodes=2)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "single_device"])
def test_strategies_that_start_processes_in_another_way_are_refused(strategy):
    with pytest.raises(InputError, match=rf"trainer\.strategy={strategy}.*ddp"):
        check_settings(TrainerConfig(strategy=strategy), ELASTIC, local_world_size=2, num_nodes=2)
