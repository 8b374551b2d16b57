"""One question and its whole answer, with the openai package. Needs a running server: `make run`.

python examples/openai_chat.py "What is Modelyard?"
"""

import os
import sys

import openai

client = openai.OpenAI(
    base_url=os.environ.get("MODELYARD_URL", "http://127.0.0.1:11435") + "/v1",
    api_key=os.environ.get("MODELYARD_KEY", "none"),  # a server without keys accepts anything
)
try:
    answer = client.chat.completions.create(
        model=os.environ.get("MODEL", "yardling"),
        messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "What is Modelyard?"}],
        max_completion_tokens=100,
    )
except openai.APIStatusError as error:
    # Every error has a code, and says what to do next.
    sys.exit(f"{error.code}: {error.message}")
print(answer.choices[0].message.content)
