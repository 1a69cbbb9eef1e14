"""The house: who may import whom, and what must not be loaded for `--help`."""

import ast
import subprocess
import sys
from pathlib import Path

import mbert

PACKAGE = Path(mbert.__file__).parent
MAY_IMPORT = {
    "mbert": set(),
    "manifests": {"mbert", "manifests"},
    "shards": {"mbert", "manifests", "shards"},
    "pipeline": {"mbert", "manifests", "shards", "pipeline"},
    "model": {"mbert", "manifests", "shards", "model"},
    "commands": {"mbert", "manifests", "shards", "pipeline", "model", "commands"},
    "__main__": {"cli"},
    "cli": {"mbert", "commands"},
}
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
    "ray": "pipeline",
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "mbert"


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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


def test_heavy_libraries_stay_in_their_room():
    heavy = [(file, home, name.split(".")[0]) for file, home, name in all_imports() if name.split(".")[0] in OWN_ROOM]
    assert len(heavy) > 5
    # `doctor` asks the libraries themselves for their versions; face-alignment is a torch program.
    also = [("mbert/pipeline/landmarkers", "pipeline", "torch")]
    assert [item for item in heavy if item[1] not in (OWN_ROOM[item[2]], "commands") and item not in also] == []


def test_there_is_no_grab_bag_module():
    names = {file.stem for file in PACKAGE.rglob("*.py")}
    assert names & {"utils", "util", "misc", "helpers", "common"} == set()


def test_importing_mbert_and_its_help_loads_no_heavy_library():
    code = (
        "import sys, mbert, mbert.cli\n"
        "try:\n    mbert.cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mediapipe', 'cv2', 'pyarrow', 'numpy', 'av', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
