"""How fast is the loader of pairs? Against decoding the same bytes from memory in a bare loop on one core.

Pair shards are made up from one public-domain face (moved and with a little noise, so that frames are as large as
crops are), or those of a workspace are taken. In one run, alternating: the bare loop that decodes, reading the bytes of
the tars alone, and the full loader with 0, 1 and 2 worker processes, from its third batch on. `loader_over_decode` is
per core: pairs per second of the loader, divided by its worker processes, over that of the bare loop in the same round.
A stricter bare loop decodes into the same memory again and again, which spares it fresh memory and keeps it in the
cache: `loader_over_decode_in_place`. Where other programs use the machine, `loader_over_decode_cpu` is steadier: pairs
per second of processor time, of all processes together, over that of the bare loop.

    python benchmarks/loader.py

The last line of the output is one JSON object.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch

from mbert.manifests.files import write_json
from mbert.manifests.schema import SCHEMA_VERSION, PairRow, pair_key
from mbert.manifests.store import write_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.model.data.loader import PairLoader
from mbert.shards.image import encode_jpeg
from mbert.shards.order import Segment
from mbert.shards.pair import FramePair
from mbert.shards.reader import PairReader
from mbert.shards.source import open_source
from mbert.shards.writer import TAR_HASH_ENTRY, writing_tar

SIZE = 224
WORKERS = (0, 1, 2)
WARM_UP = 2  # batches


def generate(folder, num_shards, pairs_per_shard):
    rng = np.random.default_rng(0)
    photo = skimage.data.astronaut()
    jpegs = []
    for _ in range(200):
        left, top = rng.integers(80, 140), rng.integers(0, 40)
        face = cv2.resize(photo[top : top + 200, left : left + 200], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        jpegs.append(encode_jpeg(face))
    for shard in range(num_shards):
        tar, twin = twin_paths(folder, f"{shard:06d}")
        rows = []
        with writing_tar(tar) as writer:
            for number in range(pairs_per_shard):
                clip = f"videos-take{shard:05d}-0badcafe_f00_c{number:05d}"
                key = pair_key(clip, 0, 6)
                info = {"key": key, "clip_id": clip, "t0": 0, "t1": 6, "delta_seconds": 0.2}
                t0, t1 = (jpegs[index] for index in rng.integers(0, len(jpegs), 2))
                (at0, size0), (at1, size1), _ = writer.add_all(FramePair.of(key, t0, t1, info).members())
                rows.append(
                    PairRow(
                        key=key, shard=f"{shard:06d}", clip_id=clip, t0=0, t1=6, delta_seconds=0.2,
                        kind="sampled", dataset="videos", t0_offset=at0, t0_size=size0, t1_offset=at1, t1_size=size1,
                    )
                )  # fmt: skip
        write_rows(twin, PairRow, rows, extra={TAR_HASH_ENTRY: writer.sha256})
    index = {
        "schema": SCHEMA_VERSION,
        "num_pairs": num_shards * pairs_per_shard,
        "options": {"pairs_per_shard": pairs_per_shard},
        "corpus": "benchmark",
        "plan": "benchmark",
        "subjects": [],
        "shards": [f"{shard:06d}" for shard in range(num_shards)],
    }
    write_json(folder / "pairs.json", index)
    return folder


def decoding(pairs, into=(None, None)):
    """Pairs per second of a loop that does nothing else."""
    began, cpu = time.perf_counter(), time.process_time()
    for pair in pairs:
        pair.images(into=into)
    return len(pairs) / (time.perf_counter() - began), len(pairs) / (time.process_time() - cpu)


def reading(source):
    began = time.perf_counter()
    for shard in range(len(source.tars)):
        source.read(shard, 0, None)
    return source.num_pairs / (time.perf_counter() - began)


def cpu_seconds():
    """Of this process and of those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def loading(source, workers, batch_size, num_batches):
    """Pairs per second from the third batch on, and per second of processor time with everything before and after."""
    cpu = cpu_seconds()
    loader = PairLoader(source, batch_size=batch_size, image_size=SIZE, seed=0, workers=workers, lends=True)
    batches = iter(loader)
    for _ in itertools.islice(batches, WARM_UP):
        pass
    began = time.perf_counter()
    for _ in itertools.islice(batches, num_batches):
        pass
    rate = num_batches * batch_size / (time.perf_counter() - began)
    batches.close()
    return rate, (WARM_UP + num_batches) * batch_size / (cpu_seconds() - cpu)


def medians(values, digits):
    return {str(name): round(float(np.median(found)), digits) for name, found in values.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workspace", type=Path, help="take its pair shards (224 px) instead of making some up")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--pairs-per-shard", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ratios, rates = {workers: [] for workers in WORKERS}, {workers: [] for workers in WORKERS}
    strict, of_cpu = {workers: [] for workers in WORKERS}, {workers: [] for workers in WORKERS}
    others = {"decode": [], "decode_in_place": [], "read": []}
    memory = tuple(np.empty((2, SIZE, SIZE, 3), np.uint8))
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.workspace and Workspace(arguments.workspace).pairs
        source = open_source(folder or generate(Path(name), arguments.shards, arguments.pairs_per_shard))
        pairs = PairReader(source).read([Segment(0, 0, min(1024, source.counts[0]))])
        num_bytes = sum(len(pair.t0_jpeg) + len(pair.t1_jpeg) for pair in pairs) / len(pairs)
        print(f"{source.num_pairs} pairs, {num_bytes / 2000:.1f} kB per frame", flush=True)
        for number in range(arguments.rounds):
            decode, decode_cpu = decoding(pairs)
            in_place, read = decoding(pairs, memory)[0], reading(source)
            for name, rate in zip(others, (decode, in_place, read), strict=True):
                others[name].append(rate)
            line = f"round {number + 1}: decode {decode:.0f}, in place {in_place:.0f}, read {read:.0f}"
            for workers in WORKERS:
                rate, cpu_rate = loading(source, workers, arguments.batch_size, arguments.batches)
                rates[workers].append(rate)
                ratios[workers].append(rate / max(1, workers) / decode)
                strict[workers].append(rate / max(1, workers) / in_place)
                of_cpu[workers].append(cpu_rate / decode_cpu)
                line += f", loader {workers} workers {rate:.0f}"
            print(f"{line} pairs/s", flush=True)
    result = {
        "loader_over_decode": medians(ratios, 3),
        "loader_over_decode_in_place": medians(strict, 3),
        "loader_over_decode_cpu": medians(of_cpu, 3),
        "pairs_per_s": {**medians(rates, 0), **medians(others, 0)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
