"""On a real Ray cluster of several nodes, started here on loopback."""

import hashlib
import time
from pathlib import Path

import pytest

from mbert import ConfigError, ShardError
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.shards.engine import Engine, run_tasks

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:subprocess")


def digests(folder):
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".tar", ".parquet"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with one core each; the driver joins by their address."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the functions of this file
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def square(number):
    return number * number


def sleep(seconds):
    time.sleep(seconds)


def refuse(number):
    raise ShardError(f"{number} is wrong")


def test_a_cluster_does_tasks_and_tells_their_errors(cluster):
    engine = Engine(kind="ray", address=cluster.address)
    assert sorted(run_tasks(square, range(20), engine)) == [number * number for number in range(20)]
    with pytest.raises(ShardError, match="5 is wrong"):
        list(run_tasks(refuse, [5], engine))
    timed = Engine(kind="ray", address=cluster.address, timeout_seconds=2)
    lost = list(run_tasks(sleep, [1000, 2000], timed, on_lost=lambda task, loss: (task, loss)))
    assert sorted(lost) == [(1000, "timeout"), (2000, "timeout")]  # and one lost task does not end the others


def test_a_killed_node_in_the_middle_of_an_ingest(cluster, synthetic_videos, corpus, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    engine = Engine(kind="ray", address=cluster.address)
    killed = []

    def kill_a_node(outcome):
        if not killed:
            (victim,) = cluster.worker_nodes
            cluster.remove_node(victim, allow_graceful=False)
            killed.append(victim)

    summary = run_ingest(synthetic_videos, workspace, IngestOptions(), engine=engine, on_outcome=kill_a_node)
    assert killed
    assert (summary.num_new, summary.statuses) == (18, {"ok": 18})
    run_shard(workspace, PairOptions(pairs_per_shard=100), engine=engine)
    assert digests(workspace.corpus) == digests(corpus.corpus)
    assert digests(workspace.pairs) == digests(corpus.pairs)


def test_an_address_without_a_cluster_stops_before_any_task():
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        list(run_tasks(square, [1], Engine(kind="ray", address="127.0.0.1:1")))
