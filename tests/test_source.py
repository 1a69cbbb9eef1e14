"""Sources on real servers: HTTP of the standard library with faults, and an S3 server where one is installed."""

import contextlib
import http.server
import itertools
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
import torch

from mbert import ConfigError, ManifestError, ShardError
from mbert.model.data.loader import PairLoader
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert
from mbert.model.scoring.config import EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.model.training.finetune import FinetuneConfig, run_finetune
from mbert.shards.exclude import without_subjects
from mbert.shards.remote import Retry, read_range
from mbert.shards.source import open_source

COUNTS = [40, 40, 13]
QUICK = Retry(tries=4, first_pause_seconds=0.01)


@pytest.fixture(scope="module")
def folder(write_pairs, tmp_path_factory):
    # Large enough for a tar to be several of the smallest pieces.
    return write_pairs(tmp_path_factory.mktemp("pairs"), COUNTS, size=96)


class Faults:
    """What a server does to requests; each list is used up from its front."""

    def __init__(self):
        self.requests = []
        self.states = []  # HTTP states answered instead of the file
        self.max_bytes = None  # sent before the connection is dropped
        self.no_ranges = False

    def tars_read(self):
        return [path for method, path in self.requests if method == "GET" and path.endswith(".tar")]


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def do_HEAD(self):
        self.answer("HEAD")

    def do_GET(self):
        self.answer("GET")

    def answer(self, method):
        self.faults.requests.append((method, self.path))
        path = Path(self.directory) / urllib.parse.urlparse(self.path).path.lstrip("/")
        state = self.faults.states.pop(0) if self.faults.states else 200 if path.is_file() else 404
        if state != 200:
            self.send_response(state)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        wanted = self.headers.get("Range")
        if wanted and not self.faults.no_ranges:
            start, stop = wanted.removeprefix("bytes=").split("-")
            state, data = 206, data[int(start) : int(stop) + 1]
        self.send_response(state)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if method == "GET":
            limit = self.faults.max_bytes
            if limit is not None and len(data) > limit:
                self.wfile.write(data[:limit])
                self.close_connection = True  # in the middle: the length that was announced is not reached
            else:
                self.wfile.write(data)

    def log_message(self, *words):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that has gone


@contextlib.contextmanager
def serving(folder):
    faults = Faults()
    handler = type("FolderHandler", (Handler,), {"faults": faults})
    server = Server(("127.0.0.1", 0), lambda *words: handler(*words, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def served(folder):
    pytest.importorskip("aiohttp", reason="needs the packages of mbert[remote]")
    with serving(folder) as (url, faults):
        yield url, faults


def batches_of(source, *, workers=0, count=6):
    loader = PairLoader(source, batch_size=16, image_size=96, seed=0, workers=workers, block=16)
    stream = iter(loader)
    found = list(itertools.islice(stream, count))
    stream.close()
    return found


def assert_same_batches(source, folder, **options):
    mine, theirs = batches_of(source, **options), batches_of(open_source(folder), count=options.get("count", 6))
    assert [batch.keys for batch in mine] == [batch.keys for batch in theirs]
    assert all(torch.equal(one.t1, other.t1) for one, other in zip(mine, theirs, strict=True))
    assert {batch.bad for batch in mine} == {()}


def facts(source):
    return source.counts, source.corpus, source.subjects, [source.name(shard) for shard in range(len(source.tars))]


def test_a_folder_and_its_index_are_the_same_source(folder):
    source = open_source(folder)
    index = json.loads((folder / "pairs.json").read_text())
    assert facts(source) == ((40, 40, 13), index["corpus"], ("videos/s01",), ["000000", "000001", "000002"])
    for where in (str(folder), f"{folder}/", f"{folder}/pairs.json", f"file://{folder}"):
        assert facts(open_source(where)) == facts(source)
        assert_same_batches(open_source(where), folder)


def test_a_pattern_is_counted_by_its_twins(folder):
    source = open_source(f"{folder}/{{000000..000002}}.tar")
    assert source.counts == (40, 40, 13)
    assert source.subjects is None
    assert_same_batches(source, folder)
    part = open_source(f"{folder}/{{000000,000002}}.tar")
    assert part.counts == (40, 13)
    assert part.corpus != source.corpus
    assert open_source(f"{folder}/000001.tar").counts == (40,)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("end", ["", "/pairs.json", "/{000000..000002}.tar"])
def test_http_gives_the_batches_of_local_files(served, folder, end, workers):
    url, _ = served
    source = open_source(url + end, retry=QUICK)
    assert source.counts == (40, 40, 13)
    assert_same_batches(source, folder, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_cache_each_shard_is_fetched_once(served, folder, tmp_path, workers):
    url, faults = served
    for _ in range(2):
        source = open_source(url, cache=tmp_path / "cache", retry=QUICK)
        assert_same_batches(source, folder, workers=workers)
    assert sorted(faults.tars_read()) == ["/000000.tar", "/000001.tar", "/000002.tar"]
    files = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name[0] != ".")
    assert files == [f"{shard:06d}.{end}" for shard in range(3) for end in ("parquet", "tar")]
    assert list((tmp_path / "cache").rglob("*.tmp")) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("end", ["", "/{000000..000002}.tar"])
@pytest.mark.parametrize("cached", [False, True])
def test_http_without_some_people_gives_the_batches_of_local_files(write_pairs, tmp_path, end, workers, cached):
    pytest.importorskip("aiohttp", reason="needs the packages of mbert[remote]")
    folder = write_pairs(tmp_path / "pairs", COUNTS, size=96, subjects=["samm/s01", "samm/s02", "casme2"])
    with serving(folder) as (url, _):
        source = open_source(url + end, cache=tmp_path / "cache" if cached else None, retry=QUICK)
        mine = batches_of(without_subjects(source, ["samm/s01"]), workers=workers, count=4)
    theirs = batches_of(without_subjects(open_source(folder), ["samm/s01"]), count=4)
    assert [batch.keys for batch in mine] == [batch.keys for batch in theirs]
    assert all(torch.equal(one.t0, other.t0) for one, other in zip(mine, theirs, strict=True))
    assert {batch.bad for batch in mine} == {()}


def test_another_corpus_at_the_same_url_does_not_meet_the_cache_of_the_first(served, write_pairs, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "served")
    with serving(copy) as (url, _):
        first = open_source(url, cache=tmp_path / "cache", retry=QUICK)
        batches_of(first)
        write_pairs(copy, [20, 20, 20], size=96)
        second = open_source(url, cache=tmp_path / "cache", retry=QUICK)
        assert_same_batches(second, copy, count=3)


@pytest.mark.parametrize("corpus", ["../../elsewhere", "/tmp/mbert-els", ".."])
def test_what_a_server_calls_its_corpus_leads_nowhere(write_pairs, tmp_path, corpus):
    folder = write_pairs(tmp_path / "served", [30, 30], size=32)
    index = json.loads((folder / "pairs.json").read_text())
    (folder / "pairs.json").write_text(json.dumps({**index, "plan": corpus}))
    with serving(folder) as (url, _):
        source = open_source(url, cache=tmp_path / "a" / "b" / "cache", retry=QUICK)
        batches_of(source)
    assert source.cache.parent == tmp_path / "a" / "b" / "cache"
    assert len(list(source.cache.rglob("*.tar"))) == 2


def _read_all(source, results):
    results.put([len(source.read(shard, 0, None)) for shard in range(3)])


def test_several_processes_may_fill_one_cache_at_once(served, folder, tmp_path):
    url, faults = served
    source = open_source(url, cache=tmp_path / "cache", retry=QUICK)
    results = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=_read_all, args=(source, results)) for _ in range(3)]
    for process in processes:
        process.start()
    sizes = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert sizes == [[(folder / f"{shard:06d}.tar").stat().st_size for shard in range(3)]] * 3
    assert len(faults.tars_read()) == 3


@pytest.mark.parametrize("cached", [False, True])
def test_a_server_that_drops_connections_gives_the_same_bytes(served, folder, tmp_path, cached):
    url, faults = served
    faults.max_bytes = 50_000
    assert (folder / "000000.tar").stat().st_size > 3 * faults.max_bytes
    source = open_source(url, cache=tmp_path / "cache" if cached else None, retry=QUICK)
    assert source.read(0, 0, None) == (folder / "000000.tar").read_bytes()
    assert source.read(1, 1000, 200_000) == (folder / "000001.tar").read_bytes()[1000:200_000]
    assert_same_batches(source, folder)


def test_a_server_that_is_busy_for_a_while_is_asked_again(served, folder):
    url, faults = served
    source = open_source(url, retry=QUICK)
    faults.states = [503, 503, 503]
    assert source.read(0, 512, 4000) == (folder / "000000.tar").read_bytes()[512:4000]
    faults.states = [200, 429, 500]
    assert source.read(0, 512, 4000) == (folder / "000000.tar").read_bytes()[512:4000]


def test_a_server_that_stays_broken_is_named_after_a_few_tries(served):
    url, faults = served
    source = open_source(url, retry=QUICK)
    faults.states, faults.requests = [503] * 100, []
    with pytest.raises(ShardError, match=r"http://127.*/000001\.tar cannot be read after 4 tries: .*"):
        source.read(1, 0, 10)
    assert 4 <= len(faults.requests) <= 8  # fsspec asks for a size by HEAD and by GET


def test_what_is_not_there_is_not_asked_for_again(served):
    url, faults = served
    with pytest.raises(ShardError, match=r"/none/pairs\.json cannot be read: there is no such file"):
        open_source(f"{url}/none")
    assert len(faults.requests) <= 2
    faults.states, faults.requests = [403] * 10, []
    with pytest.raises(ShardError, match=r"pairs\.json cannot be read: .*403"):
        open_source(url)
    assert len(faults.requests) <= 2


def test_a_server_without_ranges_serves_through_the_cache_only(served, folder, tmp_path):
    url, faults = served
    faults.no_ranges = True
    source = open_source(url, retry=QUICK)
    with pytest.raises(ShardError, match="sends whole files instead of ranges: use a cache folder"):
        source.read(0, 512, 4000)
    assert_same_batches(open_source(url, cache=tmp_path, retry=QUICK), folder)


def test_a_server_that_is_not_there_is_named():
    pytest.importorskip("aiohttp", reason="needs the packages of mbert[remote]")
    with pytest.raises(ShardError, match=r"http://127\.0\.0\.1:9/pairs\.json cannot be read after 2 tries"):
        open_source("http://127.0.0.1:9", retry=Retry(tries=2, first_pause_seconds=0))


def test_a_shard_missing_at_a_url_is_a_bad_one_with_its_name(served, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "served")
    (copy / "000001.tar").unlink()
    with serving(copy) as (url, _):
        source = open_source(url, retry=QUICK)
        loader = PairLoader(source, batch_size=16, image_size=96, seed=0, workers=1)
        with pytest.raises(ShardError, match=r"in shard 000001: http\S+/000001\.tar cannot be read: there is no"):
            list(itertools.islice(loader, 6))


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("{folder}/none", ShardError, r"no finished pair shards in \S+/none, no pairs.json: run `mbert shard --pairs`"),
        ("{folder}/other.json", ShardError, r"no finished pair shards in \S+, no other.json"),
        ("{folder}/{{000000..000005}}.tar", ShardError, r"names 6 shards, but \S+/000003.parquet .*does not exist"),
        ("{folder}/{{000000..000002}}", ConfigError, r"names '\S+/000000', which is not a .tar: write it like"),
        ("{folder}/{{000000,000000}}.tar", ConfigError, "names a tar twice"),
        ("{folder}/{{000000..000002.tar", ConfigError, "is not a brace pattern"),
        (
            "nonsense://bucket/pairs",
            ConfigError,
            "nonsense://bucket/pairs/pairs.json cannot be read: Protocol",
        ),
    ],
)
def test_wrong_places_say_what_was_looked_for(folder, where, error, message):
    with pytest.raises(error, match=message):
        open_source(where.format(folder=folder))


def test_an_index_that_is_none_is_refused(folder, tmp_path):
    index = json.loads((folder / "pairs.json").read_text())
    for change, message in (
        ({"schema": 1}, "has schema 1, this version of mbert reads"),
        ({"num_pairs": 500}, "names 3 shards, its 500 pairs fill 13"),
        ({"options": {}}, "not an index of pair shards"),
    ):
        (tmp_path / "pairs.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(ManifestError, match=message):
            open_source(tmp_path)
    (tmp_path / "pairs.json").write_text("[]")
    with pytest.raises(ManifestError, match="not an index of pair shards"):
        open_source(tmp_path)


def test_a_package_that_is_missing_is_named(folder):
    code = (
        "import sys\nsys.modules[sys.argv[1]] = None\n"
        "from mbert import ConfigError\nfrom mbert.shards.source import open_source\n"
        "try:\n    open_source(sys.argv[2])\nexcept ConfigError as exc:\n    print(exc)\n"
    )
    for module, url in (("fsspec", "http://127.0.0.1:9/a"), ("aiohttp", "http://127.0.0.1:9/a"), ("s3fs", "s3://b/a")):
        done = subprocess.run([sys.executable, "-c", code, module, url], capture_output=True, text=True, check=True)
        assert f"reading {url}/pairs.json needs another package" in done.stdout
        assert "pip install 'mbert[remote]'" in done.stdout


def test_local_files_need_no_package_for_urls(folder):
    code = (
        "import sys\nfor name in ('fsspec', 'aiohttp', 's3fs'):\n    sys.modules[name] = None\n"
        "from mbert.shards.source import open_source\nprint(len(open_source(sys.argv[1]).read(0, 0, 512)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "512\n"


@pytest.fixture(scope="module")
def s3(folder):
    """The shards in a bucket of an S3 server on this machine."""
    pytest.importorskip("s3fs", reason="needs the packages of mbert[remote]")
    pytest.importorskip("moto", reason="needs moto[server]")
    import boto3
    from moto.server import ThreadedMotoServer

    environment = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="corpus")
        for file in folder.iterdir():
            client.upload_file(str(file), "corpus", f"a/pairs/{file.name}")
        yield "s3://corpus/a/pairs"
    server.stop()


@pytest.mark.parametrize("cached", [False, True])
def test_expressions_behind_a_url_are_scored_and_finetuned_as_those_in_a_folder(corpus, tmp_path, cached):
    pytest.importorskip("aiohttp", reason="needs the packages of mbert[remote]")
    MicronBert(PRESETS["tiny"]).save_pretrained(tmp_path / "model")
    evaluation = EvalConfig(baselines=("frame_difference",))
    learning = FinetuneConfig(steps=2, batch_size=4, picture_every=0)
    with serving(corpus.root) as (url, _):
        found = []
        for name, shards, labels, cache in (
            ("local", corpus.expressions, corpus.labels, None),
            ("remote", f"{url}/shards/expressions", f"{url}/corpus/labels.parquet", tmp_path if cached else None),
        ):
            result = run_eval(shards, labels, tmp_path / "model", tmp_path / name / "eval", evaluation, cache=cache)
            tuned = run_finetune(shards, labels, tmp_path / "model", tmp_path / name / "run", learning, cache=cache)
            found.append((result.methods["mbert"].scores, result.samples, tuned.last.loss))
    assert found[0] == found[1]


@pytest.mark.parametrize("end", ["", "/{000000..000002}.tar"])
@pytest.mark.parametrize("workers", [0, 2])
def test_s3_gives_the_batches_of_local_files(s3, folder, end, workers):
    assert_same_batches(open_source(s3 + end, retry=QUICK), folder, workers=workers)


def test_s3_through_a_cache_and_what_is_not_there(s3, folder, tmp_path):
    assert_same_batches(open_source(s3, cache=tmp_path, retry=QUICK), folder)
    with pytest.raises(ShardError, match=r"s3://corpus/none/pairs\.json cannot be read: there is no such file"):
        open_source("s3://corpus/none", retry=QUICK)
    with pytest.raises(ShardError, match=r"s3://no-bucket/pairs\.json cannot be read"):
        open_source("s3://no-bucket", retry=QUICK)
    assert read_range(f"{s3}/000000.tar", 10**9, None, retry=QUICK) == b""
