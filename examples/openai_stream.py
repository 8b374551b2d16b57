"""An answer as it is made, with the openai package. Ctrl-C stops the model too. Needs a running server: `make run`.

python examples/openai_stream.py "How do I add my own model?"
"""

import os
import sys

import openai

client = openai.OpenAI(
    base_url=os.environ.get("MODELYARD_URL", "http://127.0.0.1:11435") + "/v1",
    api_key=os.environ.get("MODELYARD_KEY", "none"),
)
try:
    with client.chat.completions.create(
        model=os.environ.get("MODEL", "yardling"),
        messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "How do I add my own model?"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        for chunk in chunks:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            elif chunk.usage:
                print(f"\n({chunk.usage.completion_tokens} tokens)", file=sys.stderr)
except openai.APIError as error:
    # Also when the answer breaks off in the middle: a cut answer never looks like a complete one.
    sys.exit(f"\n{error.message}")
except KeyboardInterrupt:
    sys.exit(130)
