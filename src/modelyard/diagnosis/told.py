"""What the words of another server may mean: whole phrases, where they are said and not only mentioned. Pure.

Names and paths are left out first. A phrase then counts unless its own clause denies it, supposes it, or speaks of it
as over.
"""

from __future__ import annotations

import re

from .own_lines import GPU

END_CHARS_MAX = 2000
CLAUSE_CHARS_MAX = 80

_QUOTED = r"""(?:"[^"]*"|'[^']*'|\u201c[^\u201d]*\u201d|\u2018[^\u2019]*\u2019|`[^`]*`)"""
_NAMES = (
    r"(?:model|file|folder|path|prompt|query|input|title|name|named|called|titled|field|word|phrase|string|option|tool"
    r"|parameter|guide|article|tag|key|value|token at|expected|token)"
)
_NOT_SAID = re.compile(
    rf"\b{_NAMES}s?[ =]{_QUOTED}|\b(?:message|text|content)s? {_QUOTED}"
    r"|(?:\b[A-Za-z]:)?[/\\][^\s'\":]*(?:(?: [\w.-]+){1,4}(?:[/\\][^\s'\":]*|\.\w{2,11}\b))?",
    re.IGNORECASE,
)
_MEMORY = r"(?:memory|VRAM|RAM)"
_TOLD = re.compile(
    rf"{GPU}\b(?: error:| backend)? out of memory|\bout of (?:device|host|commit|GPU|video|system) memory\b"
    r"|\b(?:cuda|hip)Malloc failed|VK_ERROR_OUT_OF_(?:DEVICE|HOST)_MEMORY|ErrorOutOf(?:Device|Host)?Memory"
    r"|\bcudaErrorMemoryAllocation\b|\bCUBLAS_STATUS_ALLOC_FAILED\b|\w*OUT_OF_(?:DEVICE|HOST)_MEMORY\b"
    rf"|\brequires more (?:system|GPU) memory\b|\b(?:not enough|insufficient|no available) (?:\w+ )?{_MEMORY}\b"
    r"|\b(?:failed to|unable to|cannot|can't|could not) allocate (?:[\w.]+ ){0,3}"
    rf"(?:buffers?|bytes|[KMG]i?B|tensors?|kv[ -]cache|{_MEMORY})\b"
    r"|\b(?:memory|buffer) allocation failed\b|\bmemory allocation of \d+ bytes failed\b|\bstd::bad_alloc\b"
    r"|\bOutOfMemoryError\b|\b(?:WinError|os error|error code:?) 1455\b|\bpaging file is too small\b"
    r"|\bexit(?:ed with)? (?:status|code):? (?:137|-9)\b|\bOOM[- ]?killed\b|\boom-kill:"
    r"|\b(?:is|are|was|went|ran|run|has run|have run|running) out of memory\b"
    r"|(?:^|(?<=[:(])|(?<=[:,] )|(?<=[:=]\")|(?<=: \"))out of memory\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:no(?! longer)|not|never|without|avoid\w*|prevent\w*|protect\w*|if|unless|whether|in case of|how to"
    r"|what to do|why|may|might|could|would|should|about|explain\w*|fixed|fixes|handl\w+|recover\w*|retr\w+"
    r"|documentation|example|tests? for|instead of|mentions?|quot\w+|says?|named|called|titled|word|string|phrase"
    r"|tutorial|article|guide)\b"
    r"[^.;:,()\n]{0,45}\Z"
    r"|\b(?:titled|named|called|field|example): ?\Z|\b(?:0|zero) \Z",
    re.IGNORECASE,
)
_OVER = re.compile(
    r"^[^.;\n]{0,40}\b(?:handler|handling|was (?:avoided|fixed|resolved)|recovered|counter|score|tests?|protection"
    r"|policy|errors?: 0|is reserved|(?:is|was|were) not|not found|retried|yesterday|last (?:night|week|time)"
    r"|and has been restarted)\b",
    re.IGNORECASE,
)
_WEAK = re.compile(r"this may be due to resource limitations|\bresource[ _]exhausted\b", re.IGNORECASE)
_ON_GPU = re.compile(rf"{GPU}\b|(?:device|video|GPU)[ _]memory|VRAM|cuda|hip(?:Malloc|Error)|cublas", re.IGNORECASE)


def phrase_of(text: str) -> tuple[str, str] | None:
    """The phrase that tells of a lack of memory, and of which kind of memory."""
    if len(text) > 2 * END_CHARS_MAX:  # a whole log: what matters stands at one of its ends
        text = f"{text[:END_CHARS_MAX]} {text[-END_CHARS_MAX:]}"
    said = _NOT_SAID.sub(" ", text)
    for match in _TOLD.finditer(said):
        before, after = said[max(0, match.start() - CLAUSE_CHARS_MAX) : match.start()], said[match.end() :]
        if not _DENIED.search(before) and not _OVER.search(after[:CLAUSE_CHARS_MAX]):
            is_page_file = "1455" in match[0] or "paging" in match[0].lower()
            return match[0], "page_file" if is_page_file else "gpu" if _ON_GPU.search(said) else ""
    return None


def weak_phrase_of(text: str) -> str:
    """A phrase that may mean it, among other things."""
    found = _WEAK.search(text[:END_CHARS_MAX])
    return found[0] if found else ""
