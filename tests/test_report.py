"""The page on a trained network says what the network does, and no folder's name becomes markup."""

import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torchvision.transforms.functional import to_pil_image

from fasttricks import load
from fasttricks.__main__ import main
from fasttricks.data import Split
from fasttricks.study.report import Judged, confusions, judge

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three kinds of clothes, one with a name that wants to be markup."""
    folder, data = tmp_path_factory.mktemp("photos"), load()
    for kind, label in (("boots", 9), (EVIL.replace("/", "∕"), 1), ("bags & more", 8)):
        (folder / kind).mkdir()
        for number, x in enumerate(data.val.x[data.val.y == label][:60]):
            to_pil_image(x).save(folder / kind / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """A trained network's page, weights and what was printed."""
    out = tmp_path_factory.mktemp("out")
    words = ["train", "--data", str(photos), "--tricks", "cyclic", "--budget", "smoke"]
    words += ["--images", "1280", "--save", str(out / "net.safetensors")]
    words += ["--report", str(out / "page.html"), "--beside-plain"]
    assert main(words) == 0
    return (out / "page.html").read_text(encoding="utf-8"), out / "net.safetensors"


def test_the_page_says_how_good_and_at_what_cost(made):
    text, _ = made
    share, low, high = map(
        float, re.search(r"([\d.]+)% of the 18 test.*95%: ([\d.]+)% to ([\d.]+)%", text).groups()
    )
    assert low < share < high
    assert "with cyclic" in text
    assert "Plain training on 1,280 images took" in text


def test_no_name_becomes_markup_and_nothing_is_fetched(made):
    text, _ = made
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "bags &amp; more" in text
    assert not re.search(r"(src|href)=.(?!data:)", text)
    assert len(re.findall("<img", text)) == len(re.findall(r'<img alt="[^"]+"', text))


def test_the_lines_that_load_the_weights_do(made, photos):
    text, weights = made
    code = re.search(r"<pre>(.*?)</pre>", text, re.S)[1]
    for mark, sign in (("&#x27;", "'"), ("&quot;", '"'), ("&amp;", "&")):
        code = code.replace(mark, sign)
    data = load(str(photos), 28)
    names = {"pixels": data.test.x.float()}
    exec(code, names)
    right = (names["chances"].argmax(1) == data.test.y).float().mean().item()
    assert f"{right:.1%} of the 18" in text
    with safe_open(weights, "pt") as file:
        note = file.metadata()
    assert note["classes"].split("\n") == list(data.classes)
    assert (note["in_chans"], note["image_size"]) == ("3", "28")


def test_judged_counts_and_ranks():
    names = ("a", "b", "c")
    judged = Judged(names, np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 1]),
                    np.array([0.9, 0.6, 0.8, 0.7, 0.99]))  # fmt: skip
    assert judged.right == 2
    assert judged.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert judged.worst() == [4, 3, 1]
    assert judged.worst(1) == [4]


def test_many_classes_are_told_by_what_is_confused_most():
    names = tuple(f"kind {n}" for n in range(30))
    truth = np.array([3, 3, 3, 7, 7, 9])
    judged = Judged(names, truth, np.array([4, 4, 4, 8, 8, 9]), np.ones(6))
    text = confusions(judged)
    assert text.index("kind 3<") < text.index("kind 7<")
    assert "<td>kind 4</td><td>3</td>" in text


def test_a_network_is_judged_as_it_answers(small):
    class Fixed(torch.nn.Module):
        def forward(self, x):
            return torch.eye(10)[[3] * len(x)] * 9

    split = Split(small.test.x[:5], torch.tensor([3, 3, 1, 2, 3]))
    judged = judge(Fixed(), small, split)
    assert judged.right == 3
    assert judged.confidence == pytest.approx([0.9989] * 5, abs=1e-3)


def test_wrong_words_are_refused(tmp_path, capsys):
    assert main(["train", "--beside-plain"]) == 2
    assert "--report FILE" in capsys.readouterr().err
    assert main(["train", "--report", str(tmp_path / "no" / "page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
