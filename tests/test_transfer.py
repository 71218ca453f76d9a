"""The body moves, the head stays; equal to timm's own loader; unsafe or wrong files are refused."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from fasttricks import BASELINE, Transfer, train
from fasttricks.models import begin, create, given_state, head_of, optimizer_for
from fasttricks.tricks.transfer import Scratch, transplant


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of a three-colour net with 77 classes."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=3, num_classes=77).state_dict(), path)
    return path


def test_is_timms(file):
    overlay = {"file": str(file), "num_classes": 77}
    theirs = timm.create_model(
        "test_resnet", pretrained=True, in_chans=1, num_classes=10, pretrained_cfg_overlay=overlay
    ).state_dict()
    ours = begin(BASELINE + Transfer(str(file)), "test_resnet", 1, 10, 28).state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        if not name.startswith("fc."):
            assert torch.allclose(ours[name].float(), tensor.float(), atol=1e-6), name


def test_body_moves_and_head_stays(file):
    fresh = create("test_resnet", 3, 10).state_dict()
    moved = transplant(fresh, given_state(str(file), "test_resnet", 28), "fc")
    assert torch.equal(moved["fc.weight"], fresh["fc.weight"])
    assert not torch.equal(moved["conv1.0.weight"], fresh["conv1.0.weight"])


def test_grey_weights_serve_colour_images():
    """A grey image in three equal colours looks to the new body as it did to the old one."""
    torch.manual_seed(0)
    grey = begin(BASELINE + Transfer(), "test_resnet", 1, 10, 28).eval()
    colour = begin(BASELINE + Transfer(), "test_resnet", 3, 10, 28).eval()
    x = torch.rand(2, 1, 28, 28)
    seen, again = grey.forward_features(x), colour.forward_features(x.expand(-1, 3, -1, -1))
    assert torch.allclose(seen, again, atol=1e-5)


def test_pth_is_the_same(file, tmp_path):
    state = given_state(str(file), "test_resnet", 28)
    for content in (state, {"state_dict": state}):
        torch.save(content, tmp_path / "same.pth")
        again = given_state(str(tmp_path / "same.pth"), "test_resnet", 28)
        assert all(torch.equal(again[name], state[name]) for name in state)


def test_body_rate_and_freezing():
    net = create("test_resnet", 1, 10)
    slow = optimizer_for(BASELINE + Transfer(body_lr=0.1), net)
    assert {group["rate"] for group in slow.param_groups} == {0.1, 1.0}
    frozen = optimizer_for(BASELINE + Transfer(freeze=1.0), net)
    assert sum(len(group["params"]) for group in frozen.param_groups) == 2
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    optimizer_for(BASELINE + Transfer(freeze=0.2), net)
    learning = [n for n, p in net.named_parameters() if p.requires_grad]
    assert learning[0] == "layer1.0.conv1.weight", "the stem is the first fifth of the body"
    plain = optimizer_for(BASELINE, net)
    assert sum(len(group["params"]) for group in plain.param_groups) == len([*net.parameters()])
    decays = {len(p.shape) > 1: g["weight_decay"] for g in plain.param_groups for p in g["params"]}
    assert decays == {True: BASELINE.weight_decay, False: 0.0}
    assert Scratch().rate("conv1.0.weight", "fc", 0.0) == 1.0


def test_a_frozen_body_keeps_its_weights(small, file):
    run = train(BASELINE + Transfer(str(file), freeze=1.0), small, images=256, model="test_resnet")
    state = begin(BASELINE + Transfer(str(file)), "test_resnet", 1, 10, 28).state_dict()
    assert torch.equal(run.net.state_dict()["conv1.0.weight"].cpu(), state["conv1.0.weight"])
    torch.manual_seed(0)
    first_head = begin(BASELINE + Transfer(str(file)), "test_resnet", 1, 10, 28).fc.weight
    assert not torch.equal(run.net.fc.weight.cpu(), first_head)


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (print, ("code has run",))


def test_unsafe_and_broken_files(tmp_path, file, capsys):
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(Evil()))
    torch.save({"x": Evil()}, tmp_path / "evil2.pth")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    torch.save([1, 2], tmp_path / "list.pth")
    for name, words in [
        ("evil.pth", "is damaged, not safe to load"),
        ("evil2.pth", "is damaged, not safe to load"),
        ("cut.safetensors", "is damaged, not safe to load"),
        ("list.pth", "no weights file"),
    ]:
        with pytest.raises(ValueError, match=words):
            given_state(str(tmp_path / name), "test_resnet", 28)
    assert "code has run" not in capsys.readouterr().out


def test_missing_and_unfitting_files(file):
    with pytest.raises(FileNotFoundError, match="missing; check the path"):
        given_state("nowhere.safetensors", "test_resnet", 28)
    with pytest.raises(ValueError, match="do not fit this model"):
        begin(BASELINE + Transfer(str(file)), "test_vit", 1, 10, 28)


def test_a_model_with_two_classifiers(tmp_path):
    """Both are left as they are, and both learn at the full rate."""
    torch.manual_seed(1)
    name = "deit_tiny_distilled_patch16_224"
    given = timm.create_model(name, in_chans=1, num_classes=7, img_size=32)
    save_file(given.state_dict(), tmp_path / "two.safetensors")
    recipe = BASELINE + Transfer(str(tmp_path / "two.safetensors"), body_lr=0.5)
    net = create(name, 1, 10, img_size=32)
    head = head_of(net)
    assert len(head) == 2
    moved = transplant(net.state_dict(), given.state_dict(), head)
    assert moved["head_dist.weight"].shape == (10, 192)
    assert torch.equal(moved["cls_token"], given.state_dict()["cls_token"])
    groups = optimizer_for(recipe, net).param_groups
    full = {id(p) for group in groups if group["rate"] == 1 for p in group["params"]}
    assert full == {id(p) for n, p in net.named_parameters() if n.startswith(head)}


def test_no_network_no_imagenet(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(FileNotFoundError, match="need a network"):
        given_state("imagenet", "resnet18", 28)


@pytest.mark.parametrize("wrong", [{"source": ""}, {"body_lr": 0.0}, {"freeze": 1.5}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match="Transfer needs"):
        Transfer(**wrong)
