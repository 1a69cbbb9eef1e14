"""Does the GPU path work, how fast is it, and does the published form learn? For a card that is at hand for minutes.

    python benchmarks/gpu.py --out DIR [--bundle DIR] [--minutes 8] [--stages sanity,speed] [--learn paper] [--rehearse]

Stages in order of value, each in a process and with a time of its own: sanity, equality, speed, feeding, learn, encode.
After each one DIR/gpu.json is complete; a stage that fails is reported there, and the next one runs. `learn` gets what
the others leave. --bundle is the folder that gpu_bundle.py made; without one it is made here, which needs all that
ingest needs. --rehearse runs every stage with tiny sizes on a CPU: its figures mean nothing. docs/gpu.md says how to
use it on a rented card. The last line of the output is one JSON object.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_stage import Stage, write_json

# Seconds of each stage when there are 8 minutes; `learn` gets the rest.
SECONDS = {"sanity": 75, "equality": 60, "speed": 100, "feeding": 45, "learn": None, "encode": 12}
REHEARSED_SECONDS = 600  # nobody measures time in a rehearsal
MARK = "MBERT_GPU_STAGE"  # in the environment of all that a stage starts
SPARE = 8  # seconds for this program itself


def work_of(name):
    """The function of a stage; imported in the process that runs it."""
    if name in ("sanity", "equality"):
        import gpu_checks as module
    elif name in ("speed", "encode"):
        import gpu_speed as module
    elif name == "feeding":
        import gpu_feeding as module
    else:
        import gpu_learn as module
    return getattr(module, name)


def run_child(arguments):
    """One stage, in a process of its own."""
    earlier = json.loads((arguments.out / "gpu.json").read_text())["stages"]
    stage = Stage(arguments.child, arguments, arguments.seconds, earlier)
    work_of(arguments.child)(stage)


def run_stage(name, arguments, seconds):
    """Run a stage and end it, with all that it has started, when its time is over. Returns its entry of gpu.json."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--child", name, "--seconds", f"{seconds:.1f}", "--out", arguments.out]
    command += ["--bundle", arguments.bundle, "--scratch", arguments.scratch, "--learn", arguments.learn]
    command += ["--rehearse"] if arguments.rehearse else []
    # Tiny products of many processes at once: threads would wait for each other.
    mark = f"{os.getpid()}-{name}"
    environment = {**os.environ, MARK: mark, **({"OMP_NUM_THREADS": "1"} if arguments.rehearse else {})}
    process = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    )
    try:
        _, complaint = process.communicate(timeout=seconds + 5)
        ended = "" if process.returncode == 0 else f"exit code {process.returncode}: {last_line(complaint)}"
    except subprocess.TimeoutExpired:
        ended = f"not done after {seconds:.0f} s"
    finally:
        process.kill()
        end_marked(mark)
        process.communicate()
    file = arguments.scratch / f"{name}.json"
    found = json.loads(file.read_text()) if file.exists() else {"device": None, "rows": []}
    rows = found["rows"]
    failed = [f"{row['name']}: {row['error']}" for row in rows if "error" in row]
    status = ended or (failed[0] if failed else "ok")
    return {"status": status, "seconds": round(time.monotonic() - began, 1), **found}


def end_marked(mark):
    """Kill all processes of a stage: torchrun's workers have sessions of their own, but the same environment."""
    entry = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:600] if lines else "nothing was said"


def seconds_of(name, left, later, minutes, rehearse):
    """The time of a stage: its share, or, for `learn`, all but the shares of those that follow."""
    if rehearse:
        return REHEARSED_SECONDS
    share = minutes / 8
    if SECONDS[name] is None:
        return max(0.0, left - share * sum(SECONDS[other] for other in later))
    return min(left, share * SECONDS[name])


def value_of(stages, stage, row, name):
    """What a row of a stage has under a name, or None."""
    rows = stages.get(stage, {}).get("rows", [])
    return next((found[name] for found in rows if found["name"] == row and name in found), None)


def summary(stages):
    """The last line of the output."""
    return {
        "stages": {name: found["status"] for name, found in stages.items()},
        "released_speedup": value_of(stages, "speed", "same work", "released_speedup"),
        "paper_speedup": value_of(stages, "speed", "same work", "paper_speedup"),
        "mfu": value_of(stages, "speed", "best", "mfu"),
        "wait_share": value_of(stages, "feeding", "training", "wait_share"),
        "reconstruction_over_copy": value_of(stages, "learn", "end", "reconstruction_over_copy"),
        "device": next((found["device"] for found in stages.values() if found["device"]), None),
    }


def run_all(arguments, names):
    ends = time.monotonic() + 60 * arguments.minutes - SPARE
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "profiles.txt").unlink(missing_ok=True)  # of an earlier run
    found = {"rehearsal": arguments.rehearse, "minutes": arguments.minutes, "stages": {}, "summary": {}}
    write_json(arguments.out / "gpu.json", found)
    for number, name in enumerate(names):
        seconds = seconds_of(name, ends - time.monotonic(), names[number + 1 :], arguments.minutes, arguments.rehearse)
        if seconds < 1:
            found["stages"][name] = {"status": "no time was left", "seconds": 0, "device": None, "rows": []}
        else:
            found["stages"][name] = run_stage(name, arguments, seconds)
        found["summary"] = summary(found["stages"])
        write_json(arguments.out / "gpu.json", found)
        done = found["stages"][name]
        print(f"{name}: {done['status']}, {done['seconds']:.0f} s", flush=True)
    print(json.dumps(found["summary"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where gpu.json and what goes with it are written")
    parser.add_argument("--bundle", type=Path, help="what gpu_bundle.py made; default: made now, tiny in a rehearsal")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--stages", default=",".join(SECONDS), help="which ones, by commas")
    parser.add_argument("--learn", default="paper", choices=("paper", "released", "motion"), help="what `learn` trains")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a CPU too: does it run?")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return run_child(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: the running stage is ended
    names = arguments.stages.split(",")
    if unknown := [name for name in names if name not in SECONDS]:
        parser.error(f"--stages names {', '.join(unknown)}; allowed are {', '.join(SECONDS)}")
    if arguments.bundle is not None and not arguments.bundle.is_dir():
        parser.error(f"--bundle {arguments.bundle} is no folder: make it with benchmarks/gpu_bundle.py")
    with tempfile.TemporaryDirectory() as scratch:
        arguments.scratch = Path(scratch)
        if arguments.bundle is None:
            from gpu_bundle import make_data

            arguments.bundle = arguments.scratch / "bundle"
            make_data(arguments.bundle, quick=arguments.rehearse)
        return run_all(arguments, names)


if __name__ == "__main__":
    main()
