"""The house: who may import whom, and what must not be loaded for `--help`."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import mbert

PACKAGE = Path(mbert.__file__).parent
MAY_IMPORT = {
    "mbert": {"mbert"},
    "manifests": {"mbert", "manifests"},
    "shards": {"mbert", "manifests", "shards"},
    "pipeline": {"mbert", "manifests", "shards", "pipeline"},
    "weights": {"mbert"},
    "model": {"mbert", "manifests", "shards", "weights", "model"},
    "reports": {"mbert", "manifests", "reports"},
    "prediction": {"mbert", "manifests", "shards", "pipeline", "weights", "model", "reports", "prediction"},
    "run_report": {"mbert", "manifests", "model", "reports"},
    "api": {"mbert", "manifests", "shards", "pipeline", "weights", "model", "prediction", "run_report", "api"},
    "commands": {"mbert", "manifests", "shards", "pipeline", "model", "run_report", "api", "commands"},
    "__main__": {"cli"},
    "cli": {"mbert", "api", "commands"},
}
# Inside a room, left may not import right; what is not listed lies right of all.
WINGS = {
    "manifests": ("labels",),
    "pipeline": ("video", "faces", "pairs", "corpora", "synthetic"),
    "model": ("device", "data", "network", "movement", "training", "scoring"),
}
BELOW_LABELS = {
    "schema",
    "subject",
    "files",
    "store",
    "workspace",
    "query",
    "paths",
    "cells",
    "columns",
}  # what the wing `labels` stands on
OWN_ROOM = {
    "torch": "model",
    "timm": "model",
    "mediapipe": "pipeline",
    "av": "pipeline",
    "webdataset": "shards",
    "braceexpand": "shards",
    "fsspec": "shards",
    "aiohttp": "shards",
    "s3fs": "shards",
    "duckdb": "manifests",
    "ray": "shards",
    "jinja2": "reports",
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "mbert"


def imports(file: Path) -> set[str]:
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if file == PACKAGE / "__init__.py":  # what the API offers by name is for type checkers only
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            found |= {f"{node.module}.{alias.name}" if node.module == "mbert" else node.module for alias in node.names}
    return found


def all_imports() -> list[tuple[str, str, str]]:
    """(file, its room, imported module) for every import of the package."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        relative = file.relative_to(PACKAGE.parent).with_suffix("")
        found += [(str(relative), room(".".join(relative.parts)), name) for name in imports(file)]
    return found


def test_rooms_import_in_one_direction_only():
    ours = [(file, home, room(name)) for file, home, name in all_imports() if name.split(".")[0] == "mbert"]
    assert len(ours) > 50
    assert [item for item in ours if item[2] not in MAY_IMPORT[item[1]]] == []


def wing_rank(module: str) -> int:
    """The place of a module in its room: `mbert.model.network.config` is in the third wing of `model`."""
    home, wing = module.split(".")[1:3]
    if wing in BELOW_LABELS:
        return -1
    return WINGS[home].index(wing) if wing in WINGS[home] else len(WINGS[home])


def test_wings_import_in_one_direction_only():
    inside = [
        (file.replace("/", "."), name)
        for file, home, name in all_imports()
        if home in WINGS and name.startswith(f"mbert.{home}.")
    ]
    assert len(inside) > 100
    assert [(file, name) for file, name in inside if wing_rank(name) > wing_rank(file)] == []
    unknown = {
        f"{home}/{folder.name}"
        for home in WINGS
        for folder in (PACKAGE / home).iterdir()
        if (folder / "__init__.py").exists() and folder.name not in WINGS[home]
    }
    assert unknown == set()


def test_there_is_no_circle_of_imports():
    ours = {file.replace("/", ".").removesuffix(".__init__") for file, _, _ in all_imports()}
    graph: dict[str, set[str]] = {name: set() for name in ours}
    for file, _, name in all_imports():
        # `from mbert.model.network import agent` names a package and a module of it.
        target = name if name in ours else name.rpartition(".")[0]
        if target in ours:
            graph[file.replace("/", ".").removesuffix(".__init__")].add(target)
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_the_network_loads_neither_shards_nor_tables_nor_pictures():
    code = (
        "import sys\n"
        "import mbert.model.network.micron_bert, mbert.model.network.classifier, mbert.model.network.features\n"
        "print(sorted({'webdataset', 'pyarrow', 'cv2', 'duckdb', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_heavy_libraries_stay_in_their_room():
    heavy = [(file, home, name.split(".")[0]) for file, home, name in all_imports() if name.split(".")[0] in OWN_ROOM]
    assert len(heavy) > 5
    # `doctor` asks the libraries themselves for their versions; face-alignment is a torch program.
    also = [("mbert/pipeline/faces/landmarkers", "pipeline", "torch")]
    assert [item for item in heavy if item[1] not in (OWN_ROOM[item[2]], "commands") and item not in also] == []


def test_there_is_no_grab_bag_module():
    names = {file.stem for file in PACKAGE.rglob("*.py")}
    assert names & {"utils", "util", "misc", "helpers", "common"} == set()


def test_importing_mbert_and_its_help_loads_no_heavy_library():
    code = (
        "import sys, mbert, mbert.cli\n"
        "assert set(dir(mbert)) >= {'ingest', 'compare', 'MicronBert', 'MbertError'}\n"
        "try:\n    mbert.cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mediapipe', 'cv2', 'pyarrow', 'numpy', 'av', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
