"""From evidence to a verdict: why a worker ended, or what a server's error means. Pure.

What is counted comes before what is said: exit status and signal with the kernel's own count of kills, then the class
of the engine's exception, then whole phrases at the places where an engine writes them in its own output, then how
memory stood. The words of others come last and never make more than a guess: an error about memory is easily told, and
as easily quoted. Knows nothing about processes, engines or HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from modelyard.errors import N_

Code = Literal[
    "out_of_memory", "damaged_file", "missing_file", "unsupported_model", "missing_library", "address_in_use",
    "gpu_driver", "processor", "killed", "crashed", "unknown",
]  # fmt: skip

SURE, LIKELY, POSSIBLE, WEAK = 0.95, 0.8, 0.6, 0.3
OOM_MIN = 0.5  # from here on an error counts as one about memory
FULL_RATIO = 0.9  # held so much of what there was when it was killed: memory is the likely cause
SIGNALS = {4: "processor", 6: "crashed", 7: "crashed", 8: "crashed", 9: "killed", 11: "crashed", 15: "killed"}
WINDOWS_MEMORY = {8, 14, 1450, 1455}  # not enough memory, out of memory, no system resources, the paging file

CAUSES: dict[Code, str] = {
    "out_of_memory": N_("out of memory"),
    "damaged_file": N_("the file is damaged or cut"),
    "missing_file": N_("the file cannot be opened"),
    "unsupported_model": N_("this engine does not know the model's architecture"),
    "missing_library": N_("a library is missing"),
    "address_in_use": N_("its address is in use"),
    "gpu_driver": N_("the GPU's driver failed"),
    "processor": N_("this processor lacks an instruction the engine was built for"),
    "killed": N_("somebody ended it"),
    "crashed": N_("the engine crashed"),
    "unknown": N_("the engine ended while loading"),
}
_SMALLER = N_(
    "Use a smaller context (context_length), a smaller quantisation, or kv_type = q8_0; or unload another model."
)
_HINTS: dict[str, tuple[str, ...]] = {
    "out_of_memory": (_SMALLER, N_("A ladder in models.options lets the server take such steps by itself.")),
    "gpu": (N_("Use a 4-bit quantisation, a smaller n_batch, or fewer layers on the GPU (n_gpu_layers)."), _SMALLER),
    "page_file": (N_("Windows ran out of commit memory: set the page file to 16 GB or more, then restart."), _SMALLER),
    "damaged_file": (N_("Fetch the file again and compare its digest."),),
    "missing_file": (N_("Check that the file is there and may be read; `modelyard show` prints where it is."),),
    "unsupported_model": (N_("A newer engine may know it; or convert the model."),),
    "missing_library": (N_("Install what the message names."),),
    "gpu_driver": (N_("Check the driver (nvidia-smi); n_gpu_layers = 0 keeps the model off the GPU."),),
    "processor": (N_("Install a build of the engine for this processor."),),
}

# Where engines write it in their own output. llama.cpp puts a time and a level in front, and wraps some causes.
_PREFIX = r"^(?:\d[\d.]* [A-Z] +)?(?:llama_model_load: error loading model: )?"
_GPU = r"(?:CUDA|cuda|HIP|hip|ROCm|Vulkan|vulkan|SYCL|sycl|Metal|metal|MPS|MUSA|CANN)"
_LINES: tuple[tuple[Code, str, tuple[str, ...]], ...] = (
    ("out_of_memory", "", (
        r"ggml_aligned_malloc: insufficient memory",
        r"ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate",
        r"(?:alloc_tensor_range|ggml_gallocr_\w+|llama_kv_cache\w*): failed to allocate",
        r"unable to allocate \w+ buffer",
        r"(?:llama_init_from_model: failed to initialize the context: |load failed: )?std::bad_alloc",
        r"terminate called after throwing an instance of 'std::bad_alloc'",
        r"(?:mmap failed|failed to mmap\b.*|MAP_FAILED): Cannot allocate memory",
        r"RuntimeError: .*DefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
        r"(?:numpy\.\S*\.)?_?(?:ArrayMemoryError|MemoryError)(?::|$)",
        r"OSError: \[Errno 12\] Cannot allocate memory",
    )),
    ("out_of_memory", "gpu", (
        r"(?:CUDA error: out of memory|(?:cuda|hip)Malloc failed: out of memory)",
        r"ggml_backend_\w+: (?:failed to allocate|allocating \S+ MiB on device \S+: \w*[Mm]alloc failed)",
        r"ggml_(?:vulkan|sycl|metal|cann|musa)\w*: Device memory allocation of size \d+ failed",
        r"ggml_(?:vulkan|sycl|metal|cann|musa)\w*: (?:error: )?failed to allocate",
        r"(?:torch\.(?:cuda\.)?)?OutOfMemoryError: ",
        rf"RuntimeError: {_GPU} (?:error: )?(?:backend )?out of memory",
        r"ValueError: No available memory for the cache blocks",
        r"ValueError: .*larger than the maximum number of tokens that can be stored in KV cache",
        r"vk::\w+::\w+: ErrorOutOf(?:Device|Host)Memory",
    )),
    ("out_of_memory", "page_file", (r"(?:OSError: )?\[?(?:WinError|Errno|os error) 1455\b",)),
    ("unsupported_model", "", (
        r"unknown model architecture",
        r"ValueError: (?:The checkpoint you are trying to load has model type|Unrecognized configuration class)",
    )),
    ("missing_file", "", (r"gguf_init_from_file: failed to open", r"FileNotFoundError: ")),
    ("damaged_file", "", (
        r"gguf_init_from_(?:file|reader)\w*: ",
        r"tensor '[^']*' data is not within the file bounds",
        r"(?:check_tensor_dims: tensor|missing tensor|wrong number of tensors|done_getting_tensors:)",
        r"safetensors_rust\.SafetensorError: ",
    )),
    ("missing_library", "", (
        r"(?:ModuleNotFoundError|ImportError): ",
        r"\S+: error while loading shared libraries: ",
    )),
    ("address_in_use", "", (r"(?:OSError: \[Errno 98\]|.*bind\(\) failed).*[Aa]ddress already in use",)),
    ("gpu_driver", "", (
        r"(?:ggml_cuda_init: failed to initialize|CUDA error: (?!out of memory)|RuntimeError: No CUDA GPUs)",
    )),
)  # fmt: skip
_OWN = tuple((re.compile(_PREFIX + pattern), code, family) for code, family, patterns in _LINES for pattern in patterns)

# In what somebody else reports: whole phrases, and not inside a sentence that speaks of something else.
_TOLD = re.compile(
    rf"{_GPU}\b(?: error:| backend)? out of memory|out of (?:device|host|commit|GPU|video|system) memory\b"
    r"|\b(?:cuda|hip)Malloc failed|VK_ERROR_OUT_OF_(?:DEVICE|HOST)_MEMORY|ErrorOutOf(?:Device|Host)?Memory"
    r"|\brequires more system memory\b|\b(?:not enough|insufficient) (?:\w+ )?memory\b"
    r"|\b(?:failed|unable) to allocate (?:\S+ )?(?:\S+ )?(?:buffer|memory|bytes|MiB|GiB|MB|GB)\b"
    r"|\b(?:memory|buffer) allocation failed\b|\bstd::bad_alloc\b|\bCannot allocate memory\b|\bOutOfMemoryError\b"
    r"|(?:WinError|os error|error code:?) 1455\b|\bpaging file is too small\b|\bexit (?:status|code) 137\b"
    r"|\bOOM[- ]?[Kk]illed\b|\boom-kill:|\bOut of memory: Killed process\b|\b(?:ran|run) out of memory\b"
    r"|(?:^|: )out of memory\b"
)
_NOT_TOLD = re.compile(
    r"\b(?:no(?! longer)|not|never|without|avoid\w*|prevent\w*|protect\w*|if|unless|when|whether|in case of|how to"
    r"|may|might|could|would|should|about|explain\w*|fixed|fixes|handl\w+|recover\w*|retr\w+|documentation|example"
    r"|tests? for|instead of|called|named|titled|entitled|quot\w+|says?|word|string|phrase|tutorial|article|guide|0)"
    r"\b[^.;]{0,60}$",
    re.IGNORECASE,
)  # fmt: skip
_RESOLVED = re.compile(
    r"^[^.;]{0,40}\b(?:handler|handling|was (?:avoided|fixed|resolved)|recovered|counter|score|tests?|protection|policy"
    r"|errors?: 0)\b"
)
_WEAK = re.compile(
    r"this may be due to resource limitations|\bresource exhausted\b|\bRESOURCE_EXHAUSTED\b", re.IGNORECASE
)
_ON_GPU = re.compile(rf"{_GPU}\b|device memory|DEVICE_MEMORY|video memory|GPU memory|cudaMalloc|hipMalloc")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one failure. Everything may be missing."""

    lines: Sequence[str] = ()  # the last the engine itself wrote
    text: str = ""  # what another server reported
    exit_code: int | None = None
    signal: int | None = None
    error_class: str = ""  # of the engine's exception, if it names one
    windows_error: int | None = None
    oom_kills: int = 0  # that the kernel counted in our group meanwhile
    predicted_bytes: int = 0
    held_bytes: int = 0  # the most it was seen to hold
    free_bytes: int | None = None  # before it began


@dataclass(frozen=True, slots=True)
class Verdict:
    """What it was, how sure that is, and what speaks for it."""

    code: Code
    confidence: float
    evidence: dict[str, object] = field(default_factory=dict)
    suggestions: tuple[str, ...] = ()  # marked for translation, in English
    tried: tuple[str, ...] = ()  # ways of starting it that failed before

    @property
    def is_memory(self) -> bool:
        """Whether to treat it as a lack of memory."""
        return self.code == "out_of_memory" and self.confidence >= OOM_MIN

    @property
    def cause(self) -> str:
        """A few words, marked for translation."""
        return CAUSES[self.code]


def diagnose(evidence: Evidence) -> Verdict:
    """(1) What the system counted. (2) The exception's class. (3) The engine's own lines. (4) How memory stood.

    (5) The signal alone. (6) What another server says.
    """
    killed = evidence.signal == 9 or evidence.exit_code == 137
    if evidence.windows_error in WINDOWS_MEMORY:  # (1)
        return _verdict("out_of_memory", SURE, "page_file", windows_error=evidence.windows_error)
    if killed and evidence.oom_kills:
        return _verdict("out_of_memory", SURE, oom_kills=evidence.oom_kills, held_bytes=evidence.held_bytes)
    if evidence.error_class.rpartition(".")[2] in ("OutOfMemoryError", "MemoryError", "bad_alloc"):  # (2)
        family = "gpu" if "torch" in evidence.error_class else ""
        return _verdict("out_of_memory", SURE, family, error_class=evidence.error_class)
    for line in reversed(evidence.lines):  # (3)
        for pattern, code, family in _OWN:
            if pattern.search(line):
                return _verdict(code, SURE, family, line=line[:200])
    if killed:  # (4)
        free = evidence.free_bytes
        is_full = free is not None and max(evidence.held_bytes, evidence.predicted_bytes) >= FULL_RATIO * free
        code = "out_of_memory" if is_full else "killed"
        return _verdict(code, LIKELY if is_full else POSSIBLE, held_bytes=evidence.held_bytes, free_bytes=free)
    if evidence.signal is not None:  # (5)
        return _verdict(SIGNALS.get(evidence.signal, "crashed"), LIKELY, signal=evidence.signal)  # type: ignore[arg-type]
    return _told(evidence.text)  # (6)


def is_oom_error(text: str) -> bool:
    """Whether what another server reported is, more likely than not, a lack of memory.

    >>> is_oom_error("CUDA error: out of memory"), is_oom_error("failed to load model"), is_oom_error("no memory of it")
    (True, False, False)
    """
    return _told(text).is_memory


def _told(text: str) -> Verdict:
    """Words alone: a guess at most. A phrase that is denied, supposed or quoted is none."""
    for match in _TOLD.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if not _NOT_TOLD.search(before) and not _RESOLVED.search(after):
            family = (
                "page_file" if "1455" in match[0] or "paging" in match[0] else "gpu" if _ON_GPU.search(text) else ""
            )
            return _verdict("out_of_memory", POSSIBLE, family, phrase=match[0])
    if _WEAK.search(text):
        return _verdict("out_of_memory", WEAK, phrase=text[:200])
    return _verdict("unknown", WEAK)


def _verdict(code: Code, confidence: float, family: str = "", **evidence: object) -> Verdict:
    hints = _HINTS.get(family) or _HINTS.get(code, ())
    return Verdict(code, confidence, {name: value for name, value in evidence.items() if value}, hints)
