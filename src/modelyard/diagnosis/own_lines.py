"""What engines write in their own output when they fail, and what it means. Pure.

Every pattern is bound to the start of a line: one that merely mentions memory, in the name of a file or in a prompt,
says nothing.
"""

from __future__ import annotations

import re

from .verdict import Code

# llama.cpp puts a time and a level in front and wraps some causes; vLLM names the process and the place.
_PREFIX = (
    r"^(?:\([\w ]*pid=\d+\) )?(?:ERROR [\d:. -]+\[[^\]]+\] )?(?:\d[\d.]* [A-Z] +)?"
    r"(?:llama_model_load: error loading model: |llama_init_from_model: failed to initialize the context: )?"
    r"(?:load failed: )?"
)
GPU = r"(?:CUDA|HIP|ROCm|Vulkan|SYCL|XPU|Metal|MPS|MUSA|CANN)"
_LINES: tuple[tuple[Code, str, tuple[str, ...]], ...] = (
    ("out_of_memory", "page_file", (r"(?:[\w.]+: .*|\[?)\b(?:WinError|Errno|os error) 1455\b",)),
    ("out_of_memory", "gpu", (
        rf"{GPU} (?:driver )?error: out of memory|(?:cuda|hip)Malloc failed: out of memory",
        r"ggml_backend_(?!cpu)\w+: (?:error: )?(?:failed to allocate|can't allocate \d+ bytes)",
        r"ggml_backend_\w+: allocating \S+ MiB on device \S+: \w*malloc failed",
        r"ggml_(?:vulkan|sycl|metal|cann|musa)\w*: device memory allocation of size \d+ failed",
        r"ggml_(?:vulkan|sycl|metal|cann|musa)\w*: (?:error: )?failed to allocate(?! pinned)",
        r"(?:ggml_vulkan: |vk::SystemError: )?vk::[\w:]+: ErrorOutOf(?:Device|Host)Memory",
        r"(?:error: )?Insufficient Memory \(\w+:kIOGPUCommandBufferCallbackErrorOutOfMemory\)",
        r"Native API failed\. Native API returns: \S+ \(?\w*OUT_OF_(?:DEVICE|HOST)_MEMORY",
        r"(?:torch\.(?:\w+\.)*)?_?OutOfMemoryError: ",
        rf"(?:RuntimeError|torch\.\w+): {GPU} (?:driver )?(?:error: |backend )?out of memory",
        r"ValueError: No available memory for the cache blocks",
        r"ValueError: Free memory on device .* is less than desired",
        r"ValueError: To serve at least one request with .* is larger than the available KV cache memory",
        r"ValueError: .*larger than the maximum number of tokens that can be stored in KV cache",
    )),
    ("out_of_memory", "", (
        r"ggml_aligned_malloc: insufficient memory",
        r"ggml_backend_cpu\w*: failed to allocate",
        r"(?:alloc_tensor_range|ggml_gallocr_\w+|llama_kv_cache\w*): failed to allocate",
        r"unable to allocate \w+ buffer",
        r"(?:graph_reserve: )?failed to allocate (?:buffer for kv cache|compute (?:\w+ )?buffers)",
        r"std::bad_alloc|terminate called after throwing an instance of 'std::bad_alloc'| *what\(\): +std::bad_alloc",
        r"libc\+\+abi: terminating due to uncaught exception of type std::bad_alloc",
        r"(?:mmap failed|failed to mmap\b.*|MAP_FAILED|RuntimeError: unable to mmap .*): Cannot allocate memory",
        r"RuntimeError: .*DefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
        r"(?:numpy\.\S*\.)?_?(?:ArrayMemoryError|MemoryError)(?::|$)",
        r"OSError: \[Errno 12\] Cannot allocate memory",
        r"memory allocation of \d+ bytes failed|fatal error: runtime: out of memory",
    )),
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
    ("address_in_use", "", (r"(?:OSError: \[Errno 98\]|.*bind\(\) failed).*address already in use",)),
    ("gpu_driver", "", (
        r"(?:ggml_cuda_init: failed to initialize|CUDA error: (?!out of memory)|RuntimeError: No CUDA GPUs)",
        r"RuntimeError: (?:The NVIDIA driver on your system is too old|Found no NVIDIA driver)",
        r"RuntimeError: CUDA error: (?!out of memory)",
    )),
)  # fmt: skip
_OWN = tuple(
    (re.compile(_PREFIX + f"(?:{pattern})", re.IGNORECASE), code, family)
    for code, family, patterns in _LINES
    for pattern in patterns
)


def read_line(line: str) -> tuple[Code, str, str] | None:
    """Code, kind of memory and the words that decided, if this line tells the cause of a failure."""
    for pattern, code, family in _OWN:
        if found := pattern.search(line):
            return code, family, found[0]
    return None
