"""What a failure was: two hundred messages, none misread, and what the system counted before what anybody said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from modelyard.diagnosis import (
    CAUSES,
    LIKELY,
    OOM_MIN,
    POSSIBLE,
    SURE,
    Evidence,
    Verdict,
    diagnose,
    explained,
    is_oom_error,
)
from modelyard.errors import LoadFailed
from modelyard.units import GIB

CORPUS = Path(__file__).with_name("corpus.txt")


def messages() -> list[tuple[str, str, str]]:
    lines = CORPUS.read_text().splitlines()
    split = [line.split(" ", 2) for line in lines if line and not line.startswith("#")]
    return [(who, verdict, text) for who, verdict, text in split]


def verdict_of(who: str, text: str) -> Verdict:
    return diagnose(Evidence(lines=(text,), exit_code=1) if who == "own" else Evidence(text=text))


def test_the_corpus_is_large_and_half_of_it_innocent() -> None:
    counts = Counter(verdict for _who, verdict, _text in messages())

    assert sum(counts.values()) >= 200
    assert min(counts.values()) >= 0.45 * sum(counts.values())
    assert len({text for _who, _verdict, text in messages()}) > 190


@pytest.mark.parametrize(("who", "expected", "text"), messages())
def test_no_message_is_misread(who: str, expected: str, text: str) -> None:
    assert verdict_of(who, text).is_memory is (expected == "memory")


def test_words_alone_make_a_guess_and_an_engines_own_line_a_finding() -> None:
    for who, expected, text in messages():
        if expected == "memory":
            confidence = verdict_of(who, text).confidence
            assert confidence == SURE if who == "own" else OOM_MIN <= confidence <= POSSIBLE


def test_of_a_whole_log_both_ends_are_read() -> None:
    filler = "a line about memory that says nothing\n" * 20_000

    assert is_oom_error("CUDA error: out of memory\n" + filler)
    assert is_oom_error(filler + "CUDA error: out of memory")
    assert not is_oom_error(filler)


def test_weak_words_are_kept_as_weak() -> None:
    verdict = diagnose(Evidence(text="this may be due to resource limitations"))

    assert (verdict.code, verdict.is_memory) == ("out_of_memory", False)


@pytest.mark.parametrize(
    ("evidence", "code", "confidence"),
    [
        (Evidence(signal=9, oom_kills=1), "out_of_memory", SURE),
        (Evidence(exit_code=137, oom_kills=1), "out_of_memory", SURE),
        (Evidence(exit_code=137), "killed", POSSIBLE),
        (Evidence(signal=9, lines=("ggml_aligned_malloc: insufficient memory",)), "killed", POSSIBLE),
        (Evidence(signal=9, predicted_bytes=20 * GIB, free_bytes=20 * GIB), "killed", POSSIBLE),
        (Evidence(signal=9, free_last_bytes=GIB // 8, limit_bytes=8 * GIB), "out_of_memory", LIKELY),
        (Evidence(signal=9, free_last_bytes=GIB, limit_bytes=8 * GIB), "killed", POSSIBLE),
        (Evidence(signal=15, oom_kills=1), "killed", LIKELY),
        (Evidence(signal=2, lines=("std::bad_alloc",)), "killed", LIKELY),
        (Evidence(exit_code=139), "crashed", LIKELY),
        (Evidence(signal=6), "crashed", LIKELY),
        (Evidence(exit_code=0xC0000017), "out_of_memory", SURE),
        (Evidence(exit_code=0xC000012D - 2**32), "out_of_memory", SURE),
        (Evidence(exit_code=0xC0000005), "crashed", SURE),
        (Evidence(exit_code=0xC000001D), "processor", SURE),
        (Evidence(error_class="builtins.MemoryError"), "out_of_memory", SURE),
        (Evidence(exit_code=1, lines=("OSError: [Errno 98] address already in use",)), "address_in_use", SURE),
        (Evidence(exit_code=1, lines=("gguf_init_from_reader: bad magic",)), "damaged_file", SURE),
        (Evidence(exit_code=1, text="CUDA error: out of memory"), "out_of_memory", POSSIBLE),
        (Evidence(signal=9), "killed", POSSIBLE),
        (Evidence(signal=9, held_bytes=GIB, free_bytes=20 * GIB), "killed", POSSIBLE),
        (Evidence(signal=9, held_bytes=19 * GIB, free_bytes=20 * GIB), "out_of_memory", LIKELY),
        (Evidence(signal=15), "killed", LIKELY),
        (Evidence(signal=11), "crashed", LIKELY),
        (Evidence(signal=6, lines=("load failed: std::bad_alloc",)), "out_of_memory", SURE),
        (Evidence(signal=4), "processor", LIKELY),
        (Evidence(windows_error=1455), "out_of_memory", SURE),
        (Evidence(windows_error=5), "unknown", None),
        (Evidence(error_class="torch.OutOfMemoryError"), "out_of_memory", SURE),
        (Evidence(error_class="ValueError"), "unknown", None),
        (Evidence(exit_code=1, lines=("unknown model architecture: 'x'",)), "unsupported_model", SURE),
        (Evidence(exit_code=1, lines=("gguf_init_from_file: failed to open GGUF file",)), "missing_file", SURE),
        (Evidence(exit_code=1, lines=("ModuleNotFoundError: No module named 'x'",)), "missing_library", SURE),
        (Evidence(exit_code=1, lines=("CUDA error: device-side assert triggered",)), "gpu_driver", SURE),
        (Evidence(stalled_s=60.0, lines=("loading",)), "stalled", SURE),
        (Evidence(), "unknown", None),
    ],
)  # fmt: skip
def test_what_was_counted_comes_before_what_was_said(evidence: Evidence, code: str, confidence: float | None) -> None:
    verdict = diagnose(evidence)

    assert verdict.code == code
    assert confidence is None or verdict.confidence == confidence


def test_the_last_known_line_decides() -> None:
    lines = ("ggml_aligned_malloc: insufficient memory (attempted to allocate 1 MB)", "FileNotFoundError: x", "bye")

    assert diagnose(Evidence(lines=lines)).code == "missing_file"


def test_a_verdict_shows_its_evidence_and_what_to_do() -> None:
    verdict = diagnose(Evidence(lines=("CUDA error: out of memory",), exit_code=1))
    paging = diagnose(Evidence(windows_error=1455))

    assert verdict.evidence == {"line": "CUDA error: out of memory"}
    assert any("4-bit" in hint for hint in verdict.suggestions)
    assert any("16 GB" in hint for hint in paging.suggestions)


def test_no_verdict_shows_a_path() -> None:
    lines = ("OSError: [Errno 98] cannot bind /home/me/private/run.sock: address already in use",)

    assert "/home" not in str(diagnose(Evidence(lines=lines, exit_code=1)).to_json())


def test_what_was_tried_is_part_of_the_verdict() -> None:
    verdict = diagnose(Evidence(signal=9, oom_kills=1, tried=("context_length=8192",)))

    assert verdict.to_json()["tried"] == ("context_length=8192",)
    assert "tried" not in diagnose(Evidence()).to_json()


def test_an_error_carries_its_verdict_and_says_first_what_helps() -> None:
    error = explained(LoadFailed(model="m", problem="p"), diagnose(Evidence(windows_error=1455)))

    assert error.fields["verdict"] == {
        "code": "out_of_memory", "confidence": SURE, "evidence": {"windows_error": 1455}
    }  # fmt: skip
    assert "16 GB" in error.suggestions[0]
    assert any("modelyard show m" in hint for hint in error.suggestions)


def test_every_verdict_has_words() -> None:
    assert all(diagnose(Evidence(signal=number)).cause in CAUSES.values() for number in range(1, 32))


def test_the_boolean_question_is_the_same_verdict() -> None:
    for who, expected, text in messages():
        if who == "told":
            assert is_oom_error(text) is (expected == "memory"), text
