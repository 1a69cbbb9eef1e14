"""One frame pair as stored in a tar: `<key>.t0.jpg`, `<key>.t1.jpg`, `<key>.json`, adjacent."""

import dataclasses
import json
import re
from typing import Any

from mbert import ShardError
from mbert.shards.image import Image, decode_jpeg

_KEY = re.compile(r"[a-z0-9_-]+")
_TO_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclasses.dataclass(frozen=True, slots=True)
class FramePair:
    """A pair with undecoded frames and its JSON member as stored in the tar."""

    key: str
    t0_jpeg: bytes | memoryview
    t1_jpeg: bytes | memoryview
    info_json: bytes | memoryview = b"{}"

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ShardError(f"pair key {self.key!r} has characters outside a-z 0-9 _ -")

    @classmethod
    def of(
        cls, key: str, t0_jpeg: bytes | memoryview, t1_jpeg: bytes | memoryview, info: dict[str, Any]
    ) -> "FramePair":
        """A pair with the given facts as its JSON member."""
        return cls(key, t0_jpeg, t1_jpeg, _TO_JSON.encode(info).encode())

    @property
    def info(self) -> dict[str, Any]:
        """The content of the JSON member, parsed on each access. Raises ShardError if it is damaged."""
        try:
            return dict(json.loads(bytes(self.info_json)))
        except ValueError as exc:
            raise ShardError(f"pair {self.key}: its JSON cannot be read: {exc}") from exc

    def members(self) -> list[tuple[str, bytes | memoryview]]:
        """Names and bytes of the members, in tar order."""
        return [
            (f"{self.key}.t0.jpg", self.t0_jpeg),
            (f"{self.key}.t1.jpg", self.t1_jpeg),
            (f"{self.key}.json", self.info_json),
        ]

    @classmethod
    def from_sample(cls, sample: dict[str, Any]) -> "FramePair":
        """Build from a webdataset sample of raw bytes; raises ShardError naming the pair and the missing member."""
        key = sample["__key__"]
        missing = [name for name in ("t0.jpg", "t1.jpg", "json") if name not in sample]
        if missing:
            raise ShardError(f"pair {key} in {sample.get('__url__')} lacks {', '.join(missing)}")
        return cls(key=key, t0_jpeg=sample["t0.jpg"], t1_jpeg=sample["t1.jpg"], info_json=sample["json"])

    def images(self, *, into: tuple[Image, Image] | tuple[None, None] = (None, None)) -> tuple[Image, Image]:
        """Decode both frames: two (H, W, 3) uint8 RGB arrays; raises ShardError naming the pair.

        Decodes into `into` if the sizes match.
        """
        try:
            t0, t1 = decode_jpeg(self.t0_jpeg, into=into[0]), decode_jpeg(self.t1_jpeg, into=into[1])
        except ShardError as exc:
            raise ShardError(f"pair {self.key}: {exc}") from exc
        if t0.shape != t1.shape:
            raise ShardError(f"pair {self.key}: frames differ in size, {t0.shape} and {t1.shape}")
        return t0, t1
