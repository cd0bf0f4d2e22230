"""The vocabulary of a captioner: a tokenizer of the `tokenizers` library, stored as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from dlcv.runtime.errors import BundleError, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, START, END, UNKNOWN = MARKS = ("<pad>", "<start>", "<end>", "<unk>")
TOKENIZER_FILE = "tokenizer.json"

_WORD = re.compile(r"[\w']+")


@final
class Vocabulary:
    """Converts text to tokens (integers from 0) and back. Marks are special tokens that stand for no word.

    start, end, pad: the marks before, after and behind a caption. unsaid: marks that no caption contains.
    """

    def __init__(self, tokenizer: Tokenizer, *, source: str) -> None:
        """Wrap a tokenizer. source: its origin, for error messages.

        Raises:
            BundleError: it lacks one of the four marks.
        """
        missing = [mark for mark in MARKS if tokenizer.token_to_id(mark) is None]
        if missing:
            raise BundleError(
                f"{source}: the tokenizer has no token {missing[0]}; a captioner's needs {', '.join(MARKS)}"
            )
        self._tokenizer = tokenizer
        self.source = source
        numbers: list[Any] = [tokenizer.token_to_id(mark) for mark in MARKS]
        self.pad, self.start, self.end, self._unknown = numbers
        self.unsaid = (self.pad, self.start, self._unknown)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, without marks except those for unknown words."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def unknown_words(self, text: str) -> int:
        """Return the number of words of a text that are not in the vocabulary."""
        return self.tokens(text).count(self._unknown)

    def words(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token, marks included.

        Raises:
            BundleError: a token is not in the vocabulary.
        """
        return tuple(self._word(int(token)) for token in tokens)

    def _word(self, token: int) -> str:
        word = self._tokenizer.id_to_token(token)
        if word is None:
            raise BundleError(
                f"{self.source}: token {token} is outside the vocabulary of {len(self)}; the decoder belongs "
                "to another tokenizer, export the bundle again"
            )
        return word

    def text(self, tokens: Sequence[int]) -> str:
        """Return tokens as text, without marks."""
        return self._tokenizer.decode([int(token) for token in tokens])

    def to_json(self) -> bytes:
        """Return the tokenizer as the JSON that `vocabulary_from_json` reads."""
        return self._tokenizer.to_str(pretty=True).encode() + b"\n"


def vocabulary_from_json(data: bytes, *, source: str) -> Vocabulary:
    """Parse a tokenizer. source: the file that it is from, for error messages.

    Raises:
        InputError: the library is not installed.
        BundleError: it is not a tokenizer, or lacks a mark.
    """
    require_tokenizers()
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as e:  # the library raises plain Exception
        raise BundleError(f"{source} is not a tokenizer of the tokenizers library: {e}") from e
    return Vocabulary(tokenizer, source=source)


def vocabulary_from_captions(captions: Sequence[str], *, size: int) -> Vocabulary:
    """Build a vocabulary from captions: `size` tokens, which are the marks and the most frequent words.

    Words are lower-case runs of letters, digits and apostrophes; punctuation is dropped.

    Raises:
        InputError: the library is not installed, or the captions have fewer different words.
    """
    require_tokenizers()
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w']+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=list(MARKS), show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    if tokenizer.get_vocab_size() < size:
        raise InputError(
            f"the training captions have {tokenizer.get_vocab_size() - len(MARKS):,} different words, which with "
            f"{len(MARKS)} marks make {tokenizer.get_vocab_size():,} tokens; set vocabulary to that at most, not {size:,}"
        )
    return Vocabulary(tokenizer, source="the training captions")


def words_of(text: str) -> tuple[str, ...]:
    """Split a text into words as `vocabulary_from_captions` does, including unknown words."""
    return tuple(_WORD.findall(text.lower()))


def require_tokenizers() -> None:
    """Check that the tokenizers library is installed.

    Raises:
        InputError: it is not.
    """
    try:
        import tokenizers  # noqa: F401
    except ModuleNotFoundError as e:
        raise InputError("captions need the library tokenizers: pip install 'dlcv[caption]'") from e
