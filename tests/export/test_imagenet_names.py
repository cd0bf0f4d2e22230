"""The names of ImageNet's classes: in the right order, readable, no two alike."""

import re
from pathlib import Path

import pytest

from dlcv.export.sources import SourceOptions, load_source
from dlcv.export.sources.base import read_classes
from dlcv.export.sources.imagenet import imagenet_names, readable_names
from dlcv.runtime.errors import InputError

timm_info = pytest.importorskip("timm.data.imagenet_info")

# Names that share no word with WordNet's, each looked at: ours, and WordNet's first.
OTHER_WORDS = {
    7: ("rooster", "cock"), 27: ("newt", "eft"), 84: ("peafowl", "peacock"), 97: ("duck", "drake"),
    243: ("bullmastiff", "bull mastiff"), 255: ("Leonberger", "Leonberg"), 393: ("clownfish", "anemone fish"),
    455: ("bottle cap", "bottlecap"), 478: ("cardboard box", "carton"),
    502: ("clogs", "clog"), 505: ("coffeemaker", "coffeepot"), 520: ("infant bed", "crib"),
    601: ("hoop skirt", "hoopskirt"), 607: ("carved pumpkin", "jack-o'-lantern"), 608: ("jeans", "jean"),
    630: ("slip-on shoe", "Loafer"), 636: ("messenger bag", "mailbag"), 667: ("graduation cap", "mortarboard"),
    680: ("baby pacifier", "nipple"), 690: ("bullock cart", "oxcart"), 692: ("product packaging", "packet"),
    697: ("pajamas", "pajama"), 699: ("pan flute", "panpipe"), 707: ("payphone", "pay-phone"),
    770: ("sneaker", "running shoe"), 814: ("motorboat", "speedboat"), 824: ("scarf", "stole"),
    865: ("toy store", "toyshop"), 884: ("vaulted ceiling", "vault"), 896: ("sink", "washbasin"),
    913: ("shipwreck", "wreck"), 914: ("sailboat", "yawl"), 930: ("baguette", "French loaf"), 964: ("pot pie", "potpie"),
    970: ("mountain", "alp"), 978: ("beach", "seashore"), 995: ("earth star fungus", "earthstar"), 998: ("corn cob", "ear"),
}  # fmt: skip


def wordnet() -> list[str]:
    """Return WordNet's names of the classes, each a list such as "tabby, tabby cat"."""
    info = timm_info.ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index) for index in range(1000)]


def words(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower()))


def test_every_name_is_in_its_place() -> None:
    """The reference is WordNet's list, in timm: the names share a word, or stand in the table above."""
    pairs = list(zip(imagenet_names(), wordnet(), strict=True))
    others = {
        index: (name, lemmas.partition(",")[0])
        for index, (name, lemmas) in enumerate(pairs)
        if not words(name) & words(lemmas)
    }
    assert others == OTHER_WORDS


def test_no_two_names_are_alike_and_none_is_a_list_of_synonyms() -> None:
    names = imagenet_names()
    assert len({name.lower() for name in names}) == 1000
    assert [n for n in names if re.search(r"[,/]| or |^\s|\s$", n) or len(n) > 32] == []
    assert {names[i] for i in (2, 134, 281, 517, 657, 744, 836, 837)} == {
        "great white shark", "crane (bird)", "tabby cat", "construction crane", "missile", "projectile",
        "sunglass", "sunglasses",
    }  # fmt: skip


def test_lists_of_wordnet_and_their_first_names_become_readable() -> None:
    lists = wordnet()
    assert readable_names(lists) == imagenet_names()
    assert readable_names([one.partition(",")[0] for one in lists]) == imagenet_names()
    meta = pytest.importorskip("torchvision.models._meta")
    assert readable_names(meta._IMAGENET_CATEGORIES) == imagenet_names()


def test_other_names_stay() -> None:
    swapped = wordnet()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    for names in (swapped, wordnet()[:200], [f"class_{i}" for i in range(1000)], []):
        assert readable_names(names) == tuple(names)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "torchvision:squeezenet1_1"])
def test_both_libraries_have_these_names(name: str) -> None:
    source = load_source(name, SourceOptions(random=True))
    assert tuple(c.name for c in source.classes) == imagenet_names()


def test_they_can_be_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("imagenet").mkdir()  # a folder of data may have this name
    assert tuple(c.name for c in read_classes(Path("imagenet"))) == imagenet_names()
    Path("imagenet").rmdir()
    Path("imagenet").write_text("cat\ndog\n")
    assert [c.name for c in read_classes(Path("imagenet"))] == ["cat", "dog"]


def test_a_table_can_have_colours(tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_text("name,color\nroad,#804080\n,\nsky,\ncar,#0000E6\n")
    found = [(c.name, c.color) for c in read_classes(table)]
    assert found == [("road", (128, 64, 128)), ("sky", None), ("car", (0, 0, 230))]
    table.write_text("name,color\nroad,red\n")
    with pytest.raises(InputError, match="the color of 'road' is 'red'; write it as #rrggbb"):
        read_classes(table)


def test_the_classes_of_voc_have_its_colours() -> None:
    classes = read_classes(Path("voc"))
    assert len(classes) == 21
    assert (classes[0].name, classes[0].color) == ("background", (0, 0, 0))
    assert (classes[8].name, classes[8].color) == ("cat", (64, 0, 0))
    assert (classes[15].name, classes[15].color) == ("person", (192, 128, 128))
