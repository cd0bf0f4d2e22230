import pytest
import torch

from dlcv.runtime.caption.beam_search import SearchOptions
from dlcv.runtime.caption.vocabulary import vocabulary_from_captions
from dlcv.train.caption.data import NO_TOKEN, targets_from_tokens, token_row
from dlcv.train.caption.encoder import build_encoder, feature_shape
from dlcv.train.caption.evaluate import captions_from_features
from dlcv.train.caption.network import CaptionDecoder, Captioner
from dlcv.train.caption.recipe import DecoderConfig
from dlcv.train.settings import ModelConfig
from dlcv.train.summary import layer_rows


@pytest.fixture(scope="module")
def vocabulary():
    return vocabulary_from_captions(["a b c d e f g"], size=11)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    config = DecoderConfig(dim=16, depth=2, heads=4, length=8)
    return CaptionDecoder(config, vocabulary=11, channels=5, grid=(2, 3)).eval()


def test_steps_with_the_cache_give_what_the_whole_caption_gives(decoder):
    memory = decoder.memory(torch.randn(3, 5, 2, 3))
    tokens = torch.randint(0, 11, (3, 8))
    whole = decoder(tokens, memory)
    cache = torch.zeros(3, *decoder.cache_shape)
    for position in range(8):
        where = torch.full((3,), position)
        logits, cache, attention = decoder.step(tokens[:, position], where, cache, memory)
        torch.testing.assert_close(logits, whole[:, position], atol=1e-5, rtol=1e-5)
        assert attention.shape == (3, 2, 3)
        torch.testing.assert_close(attention.sum((1, 2)), torch.ones(3))


def test_what_the_cache_holds_behind_the_position_does_not_matter(decoder):
    memory = decoder.memory(torch.randn(1, 5, 2, 3))
    empty = torch.zeros(1, *decoder.cache_shape)
    rubbish = torch.full_like(empty, 7.0)
    one, two = (
        decoder.step(torch.tensor([1]), torch.tensor([0]), cache, memory)[0]
        for cache in (empty, rubbish)
    )
    torch.testing.assert_close(one, two)


def test_a_word_does_not_see_those_after_it(decoder):
    memory = decoder.memory(torch.randn(1, 5, 2, 3))
    tokens = torch.tensor([[1, 4, 5, 6]])
    changed = torch.tensor([[1, 4, 9, 10]])
    torch.testing.assert_close(decoder(tokens, memory)[:, :2], decoder(changed, memory)[:, :2])
    assert not torch.allclose(decoder(tokens, memory)[:, 2], decoder(changed, memory)[:, 2])


def test_greedy_captions_are_those_of_repeated_argmax_without_a_cache(decoder, vocabulary):
    features = torch.randn(4, 5, 2, 3) * 5
    found = captions_from_features(
        Captioner(torch.nn.Identity(), decoder), features, vocabulary=vocabulary,
        options=SearchOptions(max_length=6),
    )  # fmt: skip
    for number, tokens in enumerate(found.tokens):
        said = [vocabulary.start]
        while len(said) < 7:
            logits = decoder(torch.tensor([said]), decoder.memory(features[number : number + 1]))
            logits[..., list(vocabulary.unsaid)] = -torch.inf
            said.append(int(logits[0, -1].argmax()))
            if said[-1] == vocabulary.end:
                break
        expected = [token for token in said[1:] if token != vocabulary.end]
        assert [int(t) for t in tokens if t != vocabulary.pad] == expected


def test_a_captioner_has_a_table_of_its_layers():
    spec = build_encoder(ModelConfig(name="torchvision:squeezenet1_1"))
    config = DecoderConfig(dim=16, depth=1, heads=2, length=8)
    decoder = CaptionDecoder(config, vocabulary=11, channels=512, grid=(3, 3))
    rows = {row.name: row for row in layer_rows(Captioner(spec.network, decoder), (64, 64))}
    assert rows["decoder.logits"].output == "(1, 1, 11)"
    assert rows["decoder.logits"].parameters == 16 * 11 + 11


def test_a_row_of_tokens_is_padded_or_cut(vocabulary):
    a, b = vocabulary.tokens("a b")
    assert token_row(vocabulary, "A, b!", length=4) == [1, a, b, 2, 0]
    assert token_row(vocabulary, "a b a b", length=3) == [1, a, b, a]


def test_padding_and_unknown_words_are_not_learnt(vocabulary):
    row = torch.tensor([token_row(vocabulary, "a zebra", length=5)])
    (a,) = vocabulary.tokens("a")
    assert targets_from_tokens(row, vocabulary.unsaid).tolist() == [
        [a, NO_TOKEN, vocabulary.end, NO_TOKEN, NO_TOKEN]
    ]


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("torchvision:mobilenet_v2", {"width_mult": 0.35}, (1280, (2, 3))),
        ("timm:test_resnet", {}, None),
        ("timm:vit_tiny_patch16_224", {"img_size": [64, 96], "depth": 1}, (192, (4, 6))),
    ],
)
def test_a_cnn_or_a_vit_gives_a_feature_map(name, options, shape):
    spec = build_encoder(ModelConfig(name=name, options=options))
    found = feature_shape(spec.network, (64, 96))
    assert shape in (None, found)
    assert spec.network(torch.zeros(2, 3, 64, 96)).shape == (2, found[0], *found[1])
