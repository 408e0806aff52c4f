import pytest

from ocr.errors import InputError
from ocr.placement import Placement, first_host, placement

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "71234",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "gpu[03-04]",
}


def test_a_process_without_variables_is_alone_and_first():
    assert placement({}) == Placement()
    assert placement({}).is_first


def test_torchrun_says_where_a_process_stands():
    assert placement(TORCHRUN) == Placement("torchrun", 3, 4, 1, "1", "node-a", 29500)
    assert not placement(TORCHRUN).is_first
    assert placement(TORCHRUN | {"RANK": "0"}).is_first


def test_one_process_of_torchrun_still_leaves_the_number_to_it():
    alone = placement(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    assert (alone.starter, alone.world_size) == ("torchrun", 1)


def test_srun_says_where_a_process_stands():
    place = placement(SRUN)
    assert (place.starter, place.rank, place.world_size, place.local_rank, place.node) == ("srun", 2, 4, 0, "1")
    assert place.address == "gpu03"
    assert 15_000 <= place.port < 31_000


def test_ranks_of_one_step_meet_at_one_port_and_steps_of_a_job_at_different_ones():
    ports = [placement(SRUN | {"SLURM_PROCID": rank, "SLURM_STEP_ID": "1"}).port for rank in "0123"]
    assert len(set(ports)) == 1
    assert placement(SRUN | {"SLURM_STEP_ID": "2"}).port != ports[0]
    assert placement(SRUN | {"MASTER_PORT": "4000"}).port == 4000


def test_torchrun_inside_a_slurm_job_decides():
    assert placement(SRUN | TORCHRUN).starter == "torchrun"


@pytest.mark.parametrize(
    "shell",
    [{"SLURM_JOB_NAME": "bash"}, {"SLURM_JOB_NAME": "interactive"}, {"SLURM_PROCID": ""}, {"SLURM_NTASKS": "1"}],
)
def test_a_shell_in_a_slurm_job_and_a_single_task_are_no_rank(shell):
    environment = {name: value for name, value in (SRUN | shell).items() if value}
    assert placement(environment) == Placement()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node-a", "node-a"),
        ("a,b", "a"),
        ("gpu[03-05,09],login1", "gpu03"),
        ("gpu[7,9]", "gpu7"),
        ("gpu[12].cluster", "gpu12.cluster"),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (TORCHRUN | {"MASTER_PORT": ""}, "MASTER_PORT"),
        (TORCHRUN | {"LOCAL_RANK": "one"}, "LOCAL_RANK"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"}, "SLURM_LOCALID"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_NODELIST"}, "SLURM_JOB_NODELIST"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun"),
        ({"PMI_SIZE": "2"}, "mpirun"),
    ],
)
def test_variables_that_do_not_place_a_process_are_named_in_one_line(environment, named):
    with pytest.raises(InputError, match=rf"^[^\n]*{named}[^\n]*$"):
        placement(environment)


def test_this_program_numbers_its_ranks_node_by_node():
    environment = {"NODE_RANK": "1", "MASTER_ADDR": "node-a", "MASTER_PORT": "29500"}
    place = placement(environment)
    assert not place.is_first
    among = place.among(local_world_size=4, num_nodes=2)
    assert (among.rank, among.world_size, among.node) == (4, 8, "1")
    assert placement({}).among(2, 1) == Placement(world_size=2)


def test_several_nodes_without_a_place_to_meet_are_refused():
    with pytest.raises(InputError, match=r"trainer\.num_nodes=2.*torchrun.*srun.*MASTER_ADDR"):
        placement({}).among(1, 2)
