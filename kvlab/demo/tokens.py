"""Train the three demo tokenizers: two byte-level BPEs (Qwen2 style) and one with a dummy prefix (Llama style)."""

import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kvlab.demo.corpus import problems, text_of

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORD_START = "▁"
MAX_LENGTH = 2048
TRAINING_PROBLEMS = 20_000


def train_tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """Train all three on the train split only."""
    texts = [text_of(problem) for problem in problems("train", TRAINING_PROBLEMS, seed=100)]
    return {
        "teacher": byte_level(texts, vocab_size=1800, split=QWEN2_SPLIT, longest=9),
        "teacher-b": byte_level(texts, vocab_size=1200, split=GPT2_SPLIT, longest=12),
        "student": dummy_prefix(texts, characters=310, merges=330),
    }


def byte_level(texts: Iterable[str], vocab_size: int, split: str, longest: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE without BOS; `longest` token in bytes, so that templates do not become single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            max_token_length=longest,
            show_progress=False,
        ),
    )
    return _fast(tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def dummy_prefix(texts: Iterable[str], characters: int, merges: int) -> PreTrainedTokenizerFast:
    """Train SentencePiece-style BPE: rare characters fall back to bytes, spaces become ▁, one ▁ precedes the text."""
    vocabulary, merged = _words_and_merges(texts, characters, merges)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *vocabulary]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merged,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(WORD_START), normalizers.Replace(" ", WORD_START)])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(WORD_START, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=1, right=0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in ("<unk>", "<s>", "</s>")])
    return _fast(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    limits = {"model_max_length": MAX_LENGTH, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **limits)


def _words_and_merges(texts: Iterable[str], characters: int, merges: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Learn BPE inside words; single digits, punctuation and line breaks stay separate, as in SentencePiece."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+"), "removed"),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}▁]"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=characters + merges,
        initial_alphabet=_commonest(texts, characters),
        limit_alphabet=characters,
        max_token_length=7,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    vocabulary = sorted(model["vocab"], key=model["vocab"].get)
    return vocabulary, [tuple(pair) for pair in model["merges"]]


def _commonest(texts: Iterable[str], characters: int) -> list[str]:
    """Return the most common characters in a fixed order; the trainer's own choice among ties differs between runs."""
    counts = Counter(character for text in texts for character in text.replace(" ", WORD_START))
    del counts["\n"]  # always a byte token, as in Llama
    return sorted(counts, key=lambda character: (-counts[character], character))[:characters]
