"""No dataset is taken for another: each layout, from the tree itself to three levels above it."""

import pytest

from mbert.pipeline.corpora.registry import CORPORA

# dataset: an image, as released; the part before the first // is three levels above the tree, the second is the tree
LAYOUTS = [
    ("casme", "a/b/CASME_raw_selected//sub01/EP01_5/EP01_5-113.jpg"),
    ("casme", "a/b/Cropped//sub01/EP01_5/reg_EP01_5-069.jpg"),
    ("casme2", "a/b/CASME2_RAW_selected//sub01/EP02_01f/img46.jpg"),
    ("casme2", "a/b/Cropped//sub01/EP02_01f/reg_img46.jpg"),
    ("samm", "a/b/SAMM//006/006_1_2/006_05562.jpg"),
    ("smic", "a/b/HS//s1/micro/negative/s1_ne_01/image257900.bmp"),
    ("smic", "a/b/VIS//s1/micro/negative/s1_ne_01/reg_image257900.bmp"),
    ("smic_e", "a/b/SMIC-HS-E//s01/s1_ne_01/image559740.jpg"),
    ("casme3", "a/data/part_A//spNO.1/a/color/166.jpg"),
    ("casme3", "Part_A_ME_clip/a/frame//spNO.10_a_116/116.jpg"),
    ("casme3", "a/b/part_C//01/a/color/373.jpg"),
    ("mmew", "a/b/MMEW//S03/happiness/S03-01-002/1.jpg"),
    ("mmew", "a/MMEW_Final/Micro_Expression//happiness/S03-01-002/1.jpg"),
    ("4dme", "a/4DMicro/gray_micro//sub01/clip_1/1.jpg"),
    ("4dme", "a/4DMicro/gray_micro_crop//sub0001/sub0001_01/00001.jpg"),
    ("casme_sq", "a/b/rawpic//s15/15_0101disgustingteeth/img001.jpg"),
    ("samm_lv", "a/b/SAMM_longvideos//006_1/006_1_0001.jpg"),
    ("dfme", "a/b/train//sub0003_01/00109.png"),
]


@pytest.mark.parametrize(("dataset", "layout"), LAYOUTS)
def test_a_layout_is_recognised_as_its_dataset_alone(dataset, layout, tmp_path):
    above, below = layout.split("//")
    image = tmp_path / above / below
    image.parent.mkdir(parents=True)
    image.touch()
    tree = tmp_path / above
    for root in (tree, tree.parent, tree.parent.parent, tmp_path):
        found = {name: reason for name, corpus in CORPORA.items() if (reason := corpus.recognise(root))}
        assert set(found) == {dataset} & set(CORPORA), f"{root}: {found}"


def test_an_empty_folder_and_plain_videos_are_no_dataset(tmp_path):
    (tmp_path / "s01").mkdir()
    (tmp_path / "s01" / "happiness_1.mp4").touch()
    assert not [name for name, corpus in CORPORA.items() if corpus.recognise(tmp_path)]
