"""The regions of a face that `mbert predict` follows: their names, always in the same order.

"l" is the left side of the image, as in landmarks.
"""

from typing import Literal

REGIONS = (
    "brow_outer_l",
    "brow_inner_l",
    "brow_inner_r",
    "brow_outer_r",
    "lids_l",
    "lids_r",
    "nose",
    "cheek_l",
    "cheek_r",
    "lip_corner_l",
    "lip_corner_r",
    "upper_lip",
    "lower_lip",
    "chin",
)
Part = Literal["brows", "eyes", "mouth"]
# Regions that move together are one event. The nose and the cheeks are lifted by muscles of the mouth.
PARTS: dict[Part, tuple[str, ...]] = {"brows": REGIONS[:4], "eyes": REGIONS[4:6], "mouth": REGIONS[6:]}


def region_text(region: str) -> str:
    """A region in plain words: `brow_inner_l` -> `inner brow, image left`."""
    name, _, side = region.rpartition("_")
    sides = {"l": ", image left", "r": ", image right"}
    if side not in sides:
        return region.replace("_", " ")
    words = name.split("_")
    return " ".join(reversed(words) if words[0] == "brow" else words) + sides[side]
