import builtins
import json

import pytest

from dlcv.runtime.caption.captioned_images import captioned_images
from dlcv.runtime.caption.vocabulary import (
    MARKS,
    vocabulary_from_captions,
    vocabulary_from_json,
    words_of,
)
from dlcv.runtime.errors import BundleError, InputError


@pytest.fixture(scope="module")
def vocabulary():
    return vocabulary_from_captions(["A dog , a dog 's ball .", "a T-shirt"], size=9)


def test_marks_come_first_and_frequent_words_before_rare_ones(vocabulary):
    assert vocabulary.words(range(6)) == (*MARKS, "a", "dog")
    assert vocabulary.text(vocabulary.tokens("A DOG; ball!")) == "a dog ball"
    assert (vocabulary.start, vocabulary.end, vocabulary.unsaid) == (1, 2, (0, 1, 3))


def test_a_word_that_is_not_known_is_counted(vocabulary):
    assert vocabulary.unknown_words("a zebra and a dog") == 2


def test_a_tokenizer_survives_its_json(vocabulary):
    again = vocabulary_from_json(vocabulary.to_json(), source="a file")
    assert len(again) == len(vocabulary) == 9
    assert again.tokens("a dog's shirt") == vocabulary.tokens("a dog's shirt")


def test_scores_split_words_as_the_tokenizer_does():
    text = "Two dogs , one T-shirt : it 's José's « 9 » !"
    words = words_of(text)
    learnt = vocabulary_from_captions([text], size=len(set(words)) + 4)
    assert learnt.words(learnt.tokens(text)) == words
    assert words == ("two", "dogs", "one", "t", "shirt", "it", "'s", "josé's", "9")


def test_a_token_outside_the_vocabulary_is_refused(vocabulary):
    with pytest.raises(BundleError, match="token 9 is outside the vocabulary of 9; the decoder"):
        vocabulary.words([4, 9])


def test_more_tokens_than_words_are_refused():
    with pytest.raises(InputError, match="have 1 different words, which with 4 marks make 5"):
        vocabulary_from_captions(["yes"], size=6)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"version": 1}'])
def test_what_is_no_tokenizer_is_refused(data):
    with pytest.raises(BundleError, match=r"t.json is not a tokenizer of the tokenizers library"):
        vocabulary_from_json(data, source="t.json")


def test_a_tokenizer_without_marks_is_refused(vocabulary):
    data = vocabulary.to_json().replace(b"<end>", b"<fin>")
    with pytest.raises(BundleError, match="the tokenizer has no token <end>; a captioner's needs"):
        vocabulary_from_json(data, source="t.json")


def test_without_the_library_one_sentence_says_how_to_get_it(monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "tokenizers":
            raise ModuleNotFoundError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"need the library tokenizers: pip install 'dlcv\[cap"):
        vocabulary_from_json(b"{}", source="t.json")


@pytest.fixture
def folder(tmp_path, new_photo):
    for name in ("a.png", "deep/b.png"):
        new_photo(name)
    return tmp_path


def write(folder, captions):
    (folder / "captions.json").write_text(
        captions if isinstance(captions, str) else json.dumps(captions)
    )


def test_images_are_found_by_their_path_or_its_last_part(folder):
    write(folder, {"b.png": ["two"], "a.png": ["one", "uno"]})
    first, second = captioned_images(folder)
    assert (first.name, first.captions) == ("b.png", ("two",))
    assert first.read() == (folder / "deep/b.png").read_bytes()
    assert second.captions == ("one", "uno")
    assert [item.name for item in captioned_images(folder / "captions.json")] == ["b.png", "a.png"]


@pytest.mark.parametrize(
    ("captions", "sentence"),
    [
        ({"a.png": ["x"], "c.png": ["y"]}, r"1 of 2 images have no file beside it, such as 'c.png'"),
        ({"a.png": []}, "captions.json: a.png has no caption; give it one or take it out"),
        ({"a.png": ["x", " . "]}, "a.png has a caption without a word; give it one"),
        ({}, "captions.json names no image"),
        ({"a.png": "x"}, "captions.json is not a caption file"),
        (["a.png"], "captions.json is not a caption file"),
        ("{", "captions.json is not a caption file"),
    ],
)  # fmt: skip
def test_a_caption_file_that_does_not_fit_is_one_sentence(folder, captions, sentence):
    write(folder, captions)
    with pytest.raises(InputError, match=sentence):
        captioned_images(folder)


def test_there_is_just_one_caption_file(folder):
    with pytest.raises(InputError, match="holds 0 caption files"):
        captioned_images(folder)
    with pytest.raises(InputError, match=r"no caption file .*none.json"):
        captioned_images(folder / "none.json")
