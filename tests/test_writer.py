import tarfile

import pytest

from mbert.shards.writer import _header, writing_tar


def test_members_lie_where_the_writer_says(tmp_path):
    path = tmp_path / "x.tar"
    with writing_tar(path) as writer:
        ranges = {name: writer.add(name, data) for name, data in (("a.jpg", b"12345"), ("b.jpg", b"z" * 512))}
    data = path.read_bytes()
    assert {name: data[start : start + size] for name, (start, size) in ranges.items()} == {
        "a.jpg": b"12345",
        "b.jpg": b"z" * 512,
    }
    with tarfile.open(path) as archive:
        assert [(m.name, m.size, m.mtime, m.uid) for m in archive] == [("a.jpg", 5, 0, 0), ("b.jpg", 512, 0, 0)]
    assert len(data) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("name", ["a.jpg", "x" * 100, "folder/" * 20 + "long.jpg", "ü.json"])
@pytest.mark.parametrize("size", [0, 1, 512, 8**11 - 1])
def test_headers_are_those_of_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert _header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8")


def test_the_same_members_give_the_same_bytes(tmp_path):
    for name in ("x.tar", "y.tar"):
        with writing_tar(tmp_path / name) as writer:
            writer.add("a", b"1")
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_an_exception_leaves_no_shard(tmp_path):
    def fail():
        with writing_tar(tmp_path / "x.tar") as writer:
            writer.add("a", b"1")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
