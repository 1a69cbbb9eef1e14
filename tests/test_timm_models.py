import pytest
import timm
import torch

import mbert.model.network.timm_models  # noqa: F401 - registers the models
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small random μ-BERT and its folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = MicronBert(PRESETS["tiny"]).eval()
    model.save_pretrained(folder)
    return folder, model


def load(folder, **options):
    overlay = {"file": str(folder / "model.safetensors")}
    return timm.create_model(
        "micron_bert_tiny_patch8_112", pretrained=True, pretrained_cfg_overlay=overlay, **options
    ).eval()


def test_the_names_are_registered_with_their_sizes():
    assert timm.list_models("micron_bert*") == [
        "micron_bert_base_patch8_224",
        "micron_bert_small_patch8_224",
        "micron_bert_small_patch16_224",
        "micron_bert_tiny_patch8_112",
    ]
    model = timm.create_model("micron_bert_small_patch8_224", num_classes=3)
    assert (model.embed_dim, len(model.blocks), model.patch_embed.num_patches) == (512, 4, 784)
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 3)


def test_features_of_our_weights_equal_those_of_our_encoder(saved):
    folder, model = saved
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        context, patches = model.encode(images)
        found = load(folder).forward_features(images)
    assert torch.allclose(found[:, 0], context, atol=1e-5)
    assert torch.allclose(found[:, 1:], patches, atol=1e-5)


def test_a_head_other_sizes_and_feature_maps_work_as_everywhere_in_timm(saved):
    folder, _ = saved
    assert load(folder, num_classes=5, img_size=160)(torch.randn(2, 3, 160, 160)).shape == (2, 5)
    (maps,) = load(folder, features_only=True, out_indices=[1])(torch.randn(2, 3, 112, 112))
    assert maps.shape == (2, 96, 14, 14)
    one_channel = load(folder, in_chans=1)
    assert one_channel(torch.randn(2, 1, 112, 112)).shape == (2, 96)


def test_positions_are_those_of_the_method_from_the_start():
    model = timm.create_model("micron_bert_tiny_patch8_112")
    assert torch.equal(model.pos_embed, MicronBert(PRESETS["tiny"]).encoder.pos_embed)
    assert not model.pos_embed.requires_grad
