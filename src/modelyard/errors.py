"""Every error a person or a client can meet, in one tree. Pure; knows no HTTP.

    YardError                     internal
    ├── BadRequest                invalid_value           the request says something impossible; `param` names it
    │   ├── MalformedBody         invalid_json
    │   ├── RequestTooLarge       request_too_large
    │   ├── UnsupportedMediaType  unsupported_media_type
    │   ├── MethodNotAllowed      method_not_allowed
    │   ├── RequestTimeout        request_timeout         the request itself came too slowly
    │   ├── ContextLengthExceeded context_length_exceeded
    │   ├── RefusedThere          upstream_refused        the node that was asked does not want this request
    │   ├── TemplateFailed        chat_template_failed    the model's own template makes no prompt of this
    │   ├── PromptRefused         prompt_refused          a guard of this server does not let it through
    │   └── CapabilityMissing     unsupported_capability  this model or engine cannot do that
    │       └── NotOfferedThere   upstream_not_offered    the node that was asked has no such endpoint
    ├── NotAuthenticated          invalid_api_key
    ├── PermissionDenied          permission_denied
    │   ├── ModelNotAllowed       model_not_allowed
    │   ├── HostRefused           host_not_allowed
    │   └── OriginRefused         origin_not_allowed
    ├── NotFound                  not_found
    │   ├── ModelNotFound         model_not_found
    │   └── NodeNotFound          node_not_found
    ├── NotBuilt                  not_implemented         a part of another server's API that we do not have
    ├── ExtraMissing              extra_missing           a package that is installed only on demand
    ├── LoopDetected              loop_detected           a request came back to a server it had passed
    ├── RateLimited               rate_limit_exceeded     the caller's own limit
    ├── Unavailable               unavailable             our capacity; `retry_after_s` says when
    │   ├── QueueFull             queue_full
    │   ├── QueueTimeout          queue_timeout
    │   ├── InsufficientMemory    insufficient_memory     `never_fits` tells the hopeless case
    │   ├── LoadFailed            model_load_failed
    │   ├── EngineMissing         engine_missing          an extra that is not installed
    │   ├── OutOfMemory           out_of_memory
    │   ├── LoadStalled           load_stalled
    │   ├── ModelUnloaded         model_unloaded          taken out of memory by an operator while waiting
    │   ├── NoNodeAvailable       no_node_available       whoever has the model is down, cooling down or draining
    │   ├── DiskFull              disk_full               no room for a model's files
    │   ├── StoreFailed           store_failed            the disk does not let us keep them
    │   ├── GuardUnavailable      guard_unavailable       the operator's guard failed, and nothing passes without it
    │   └── ShuttingDown          shutting_down
    ├── UpstreamError             upstream_error          what should have answered did not, or lied
    │   ├── WorkerCrashed         worker_crashed
    │   ├── UpstreamStalled       upstream_stalled
    │   ├── UpstreamUnreachable   upstream_unreachable
    │   ├── UpstreamInvalid       upstream_invalid_response
    │   ├── UpstreamTimeout       upstream_timeout        no first token before the deadline
    │   ├── UpstreamRefusedKey    upstream_refused_key    a node does not accept the key we have for it
    │   ├── UpstreamLimited       upstream_rate_limited   a node's own limit; `retry_after_s` is what it said
    │   ├── UpstreamOverloaded    upstream_overloaded     a node has no room now
    │   ├── UpstreamModelMissing  upstream_model_missing  a node no longer has the model it listed
    │   └── DigestMismatch        digest_mismatch         bytes that are not the file; none of them is kept
    ├── DeadlineExceeded          deadline_exceeded       the caller's own time for the whole of it is over
    ├── RequestCancelled          request_cancelled       an operator cancelled it
    ├── ClientClosed              client_closed           the caller left; seen in logs only
    ├── ModelFileError            model_file_invalid
    ├── ConfigError               config_invalid
    └── OllamaServiceError        ollama_service_error    the client library; a server of ours never sends these
        ├── OllamaConnectionError    ollama_connection_error     the network: no connection, lost, cut, silent
        ├── OllamaModelNotFoundError ollama_model_not_found
        ├── OllamaError              ollama_error                what the node itself reported; never the network
        └── TimeoutWithDiagnosis     timeout_diagnosed           no answer in time, and what is known about why

An error carries an English template (`text`), the values that fill it (`fields`), and what to do next (`hints`,
templates too). `words.render` says the same in another language; `str(error)` is English.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


def N_(text: str) -> str:  # noqa: N802 - gettext's own name for "mark, translate later"
    """Mark a template for translation."""
    return text


def said(template: str, /, **fields: object) -> str:
    """A phrase in English that goes into another text. In other languages its template is found again: `words.told`.

    >>> said("part {number} of {count} is missing", number=2, count=3)
    'part 2 of 3 is missing'
    """
    return fill(template, fields)


Sentence = tuple[str, dict[str, object]]  # a template, and the values that fill it


def NN_(one: str, many: str) -> tuple[str, str]:  # noqa: N802 - its sister
    """Mark a template that has two forms in English, for one and for many."""
    return one, many


class YardError(Exception):
    """Something went wrong that we did not foresee."""

    code: ClassVar[str] = "internal"
    text: str = N_("Something went wrong inside Modelyard.")
    hints: tuple[str, ...] = (N_("The server's log has the details under this request id."),)

    def __init__(
        self,
        text: str | None = None,
        *,
        hints: Sequence[str] | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        **fields: object,
    ) -> None:
        if text is not None:
            self.text = text
        if hints is not None:
            self.hints = tuple(hints)
        self.param = param
        self.retry_after_s = retry_after_s
        self.fields: dict[str, object] = fields
        super().__init__(self.text)

    def __str__(self) -> str:
        return fill(self.text, self.fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @property
    def suggestions(self) -> tuple[str, ...]:
        """What to do next, in English. A hint whose values are missing is left out."""
        filled = (fill(hint, self.fields) for hint in self.hints)
        return tuple(hint for hint in filled if "{" not in hint)


def fill(template: str, fields: dict[str, object]) -> str:
    """Put values into a template. A value that is missing stays visible; an error about an error helps nobody.

    >>> fill("no {what}, {why}", {"what": "room"})
    'no room, {why}'
    """
    return template.format_map(_Visible(fields)) if fields else template


class _Visible(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


class BadRequest(YardError):
    """The request asks for something that cannot be."""

    code = "invalid_value"
    text = N_("The request is not valid.")
    hints: tuple[str, ...] = ()


class MalformedBody(BadRequest):
    """The body is not the JSON object we expect."""

    code = "invalid_json"
    text = N_("The body is not valid JSON: {problem}")
    hints = (N_("Send one JSON object with Content-Type: application/json."),)


class RequestTooLarge(BadRequest):
    """The body, or a part of it, is over a limit."""

    code = "request_too_large"
    text = N_("The request is too large: {what} is over the limit of {limit}.")
    hints = (N_("Send less, or raise {setting} in the server's configuration."),)


class UnsupportedMediaType(BadRequest):
    """The body is of a type this endpoint does not read."""

    code = "unsupported_media_type"
    text = N_("This endpoint reads application/json, not {media_type}.")
    hints = (N_("Send the header Content-Type: application/json."),)


class MethodNotAllowed(BadRequest):
    """The path exists and does not answer to this method."""

    code = "method_not_allowed"
    text = N_("{method} is not possible here; {allow} is.")


class RequestTimeout(BadRequest):
    """The caller took too long to send the request."""

    code = "request_timeout"
    text = N_("The request did not arrive completely within {budget_s} s.")


class ContextLengthExceeded(BadRequest):
    """The prompt is longer than the model's context."""

    code = "context_length_exceeded"
    text = N_("The prompt has {prompt_tokens} tokens; {model} has a context of {context_length}.")
    hints: tuple[str, ...] = (
        N_("Shorten the prompt, or give the model a larger context in the server's configuration."),
        N_("Old turns are left out of prompts by themselves with prompts.trim; MAX_INPUT_TOKENS sets a lower limit."),
    )


class TemplateFailed(BadRequest):
    """The model's chat template made no prompt of this request."""

    code = "chat_template_failed"
    text = N_("The chat template of {model} cannot be rendered: {problem}")
    hints = (N_("Many templates want a user's turn after each of the assistant's; /v1/completions needs no template."),)


class PromptRefused(BadRequest):
    """The prompt was refused before any model saw it."""

    code = "prompt_refused"
    text = N_("A guard of this server refused the prompt: {reason}.")
    hints = (N_("Say it in another way, or ask the operator which rule of [guards] it met, by the request id."),)


class CapabilityMissing(BadRequest):
    """The model or its engine cannot do what was asked."""

    code = "unsupported_capability"
    text = N_("{model} cannot do this: {capability}.")
    hints = (N_("`modelyard show {model}` lists what it can do."),)


class NotOfferedThere(CapabilityMissing):
    """The node that was asked does not have this part of an API. Another may."""

    code = "upstream_not_offered"
    text = N_("{provider} does not offer this for {model}: it has no {path}.")
    hints = (N_("Ask a model of another node, or name one that can: GET /v1/models lists who has what."),)


class RefusedThere(BadRequest):
    """The node that was asked understood the request and does not want it: a moderation, a right it does not give."""

    code = "upstream_refused"
    text = N_("{provider} refuses this request: {problem}")
    hints = (N_("Change the request, or ask another model. The node itself and its other models are well."),)


class NotAuthenticated(YardError):
    """No key, or one we do not know."""

    code = "invalid_api_key"
    text = N_("A valid API key is needed.")
    hints = (N_("Send the header Authorization: Bearer YOUR_KEY."),)


class PermissionDenied(YardError):
    """The key is known and may not do this."""

    code = "permission_denied"
    text = N_("This key may not do that.")
    hints = (N_("Use a key with the right {right}."),)


class ModelNotAllowed(PermissionDenied):
    """The key may not use this model."""

    code = "model_not_allowed"
    text = N_("This key may not use {model}.")
    hints = (N_("Ask the operator to add the model to this key."),)


class HostRefused(PermissionDenied):
    """The Host header names somebody else (DNS rebinding)."""

    code = "host_not_allowed"
    text = N_("This server does not answer to that Host header.")
    hints = (N_("Use its address, or add the name to server.allowed_hosts."),)


class OriginRefused(PermissionDenied):
    """A web page of another origin called."""

    code = "origin_not_allowed"
    text = N_("Web pages of that origin may not call this server.")
    hints = (N_("Add the origin to server.allowed_origins if you trust it."),)


class NotFound(YardError):
    """There is nothing of that name."""

    code = "not_found"
    text = N_("There is nothing at {path}.")
    hints: tuple[str, ...] = (N_("docs/api.md lists every path."),)


class ModelNotFound(NotFound):
    """No model of that name in the catalog."""

    code = "model_not_found"
    text = N_("There is no model named {model}.")
    hints = (N_("Did you mean: {near}?"), N_("`modelyard list` shows every model."))


class NodeNotFound(NotFound):
    """No node of that name in the configuration."""

    code = "node_not_found"
    text = N_("There is no node named {node}.")
    hints = (N_("Did you mean: {near}?"), N_("`modelyard nodes` shows every node."))


class NotBuilt(YardError):
    """Other servers of this dialect do that; we do not."""

    code = "not_implemented"
    text = N_("This server does not do that: {what}.")
    hints: tuple[str, ...] = (N_("docs/api.md lists every path."),)


class ExtraMissing(YardError):
    """What this needs is installed only where somebody wants it."""

    code = "extra_missing"
    text = N_("This needs packages that are not installed: {packages}.")
    hints = (N_("Install them: {command}"),)


class LoopDetected(YardError):
    """Servers that are nodes of each other passed a request round."""

    code = "loop_detected"
    text = N_("The request has passed {hops} servers and came back: nodes here are nodes of each other.")
    hints = (N_("Look at the addresses in [[nodes]] of each of these servers."),)


class RateLimited(YardError):
    """The caller has used up its own limit."""

    code = "rate_limit_exceeded"
    text = N_("Too many requests: the limit is {limit} in {window_s} s.")
    hints = (N_("Wait for the time in the Retry-After header."),)


class Unavailable(YardError):
    """We cannot serve this now."""

    code = "unavailable"
    text = N_("The server cannot serve this now.")
    hints: tuple[str, ...] = (N_("Try again in a moment."),)


class QueueFull(Unavailable):
    """As many requests wait as may wait."""

    code = "queue_full"
    text = N_("{waiting} requests are waiting already; that is the limit.")
    hints = (N_("Try again in a moment, or raise residency.queue_max."),)


class QueueTimeout(Unavailable):
    """The request waited for memory or a slot until its deadline."""

    code = "queue_timeout"
    text = N_("{model} did not become free within {waited_s} s.")
    hints = (
        N_("`modelyard ps` shows what is in use."),
        N_("If no model is ever unloaded, set MODEL_UNLOAD_ENABLED=1; residency.idle_ttl_s says after how long."),
    )


class InsufficientMemory(Unavailable):
    """The model does not fit: now, or ever."""

    code = "insufficient_memory"
    text = N_("{model} needs {needed}; {device} has {budget} for models, {free} of it free.")
    hints = (N_("Unload another model, use a smaller context or a smaller quantisation."),)

    @property
    def never_fits(self) -> bool:
        """True if no eviction could make room, so that trying again is pointless."""
        return bool(self.fields.get("never"))


class LoadFailed(Unavailable):
    """A worker could not load the model."""

    code = "model_load_failed"
    text = N_("{model} could not be loaded: {problem}")
    hints: tuple[str, ...] = (
        N_("`modelyard show {model}` says how it is started; the worker's last lines are in the server's log."),
    )


class EngineMissing(LoadFailed):
    """The engine that a model needs is not installed."""

    code = "engine_missing"
    text = N_("{model} needs {engine}, which is not installed.")
    hints = (N_("Install it beside this server: pip install '{install}'"),)


class OutOfMemory(LoadFailed):
    """A worker ended because memory did not suffice, by what was counted or what its engine wrote."""

    code = "out_of_memory"
    text = N_("{model} could not be loaded: out of memory. It was predicted to need {needed}; {free} were free.")
    hints = (
        N_("Use a smaller context_length, a smaller quantisation, or kv_type = q8_0; or unload another model."),
        N_("Smaller ways that were tried in vain: {tried}."),
    )


class LoadStalled(LoadFailed):
    """A load made no progress."""

    code = "load_stalled"
    text = N_("Loading {model} made no progress for {stalled_s} s and was stopped.")


class ModelUnloaded(Unavailable):
    """The model was taken out while this request waited for it."""

    code = "model_unloaded"
    text = N_("{model} was unloaded while this request waited for it.")


class NoNodeAvailable(Unavailable):
    """Everybody who has the model is out of rotation."""

    code = "no_node_available"
    text = N_("No node can answer for {model} now: {reasons}")
    hints = (N_("`modelyard nodes` shows the state of each node and when it is tried again."),)


class DiskFull(Unavailable):
    """The store's disk has no room for a model's files."""

    code = "disk_full"
    text = N_("{label} needs {needed} on disk; {free} are free in {folder}.")
    hints = (
        N_("Free some space, or set pull.store to a folder on another disk."),
        N_("What has come is kept, and the pull goes on from there; `modelyard pull --partials` lists it."),
    )


class StoreFailed(Unavailable):
    """The store's disk refuses to read or write."""

    code = "store_failed"
    text = N_("{label} cannot be written: {problem}")
    hints = (N_("`modelyard paths` shows where the store is."),)


class GuardUnavailable(Unavailable):
    """The operator's guard failed or took too long, and nothing passes without it."""

    code = "guard_unavailable"
    text = N_("The guard that looks at prompts did not answer, and no prompt passes without it.")
    hints = (N_("Try again in a moment. Operators: the log says why; guards.on_failure decides what happens then."),)


class ShuttingDown(Unavailable):
    """The server is stopping."""

    code = "shutting_down"
    text = N_("The server is shutting down.")


class UpstreamError(YardError):
    """What should have answered did not."""

    code = "upstream_error"
    text = N_("{provider} failed: {problem}")
    hints = (N_("Try again; `modelyard ps` shows the state of the model."),)


class WorkerCrashed(UpstreamError):
    """A worker process ended while it was needed."""

    code = "worker_crashed"
    text = N_("The worker of {model} ended unexpectedly ({exit}).")
    hints = (N_("Try again: the next request starts a new worker. Last lines: {last_lines}"),)


class UpstreamStalled(UpstreamError):
    """Tokens stopped coming."""

    code = "upstream_stalled"
    text = N_("{model} produced nothing for {stalled_s} s.")


class UpstreamUnreachable(UpstreamError):
    """No connection."""

    code = "upstream_unreachable"
    text = N_("{provider} cannot be reached: {problem}")


class UpstreamInvalid(UpstreamError):
    """An answer that is cut or makes no sense."""

    code = "upstream_invalid_response"
    text = N_("{provider} sent an answer that is cut or not valid: {problem}")


class UpstreamTimeout(UpstreamError):
    """No first token before the deadline."""

    code = "upstream_timeout"
    text = N_("{model} produced no first token within {budget_s} s.")


class UpstreamRefusedKey(UpstreamError):
    """The node wants another key than ours. Our mistake, and not the node's."""

    code = "upstream_refused_key"
    text = N_("{provider} does not accept the key it was configured with.")
    hints = (N_("Check the key of this node in the server's configuration."),)


class UpstreamLimited(UpstreamError):
    """The node limits us."""

    code = "upstream_rate_limited"
    text = N_("{provider} limits how much it answers.")
    hints = (N_("Wait for the time in the Retry-After header."),)


class UpstreamOverloaded(UpstreamError):
    """The node has no room for more now."""

    code = "upstream_overloaded"
    text = N_("{provider} has no room for more requests now.")
    hints = (N_("Try again in a moment."),)


class UpstreamModelMissing(UpstreamError):
    """The node does not know the model any more."""

    code = "upstream_model_missing"
    text = N_("{provider} no longer has {model}.")
    hints = (N_("`modelyard list` shows who has which model."),)


class DigestMismatch(UpstreamError):
    """What came is not the file that was asked for."""

    code = "digest_mismatch"
    text = N_("{provider} sent bytes that are not {file}: their digest is another. They were thrown away.")
    hints = (N_("Try again; if it happens again, somebody between here and there changes what is sent."),)


class DeadlineExceeded(YardError):
    """The time the caller gave for the whole answer is over."""

    code = "deadline_exceeded"
    text = N_("The answer was not complete within the {budget_s} s that the request had.")
    hints = (N_("Give it more time, or ask for less."),)


class RequestCancelled(YardError):
    """An operator cancelled the request."""

    code = "request_cancelled"
    text = N_("The request was cancelled.")
    hints = ()


class ClientClosed(YardError):
    """The caller hung up."""

    code = "client_closed"
    text = N_("The client closed the connection.")
    hints = ()


class ModelFileError(YardError):
    """A model file is damaged, cut, or not what it says."""

    code = "model_file_invalid"
    text = N_("{path} is not a usable model file: {problem}")
    hints = (N_("Fetch the file again and compare its digest."),)


class ConfigError(YardError):
    """The configuration is wrong."""

    code = "config_invalid"
    text = N_("{where}: {problem}")
    hints = (N_("docs/settings.md says what each setting may be; `modelyard config` shows what is in effect."),)


class OllamaServiceError(YardError):
    """Something went wrong between the client library and the node."""

    code = "ollama_service_error"
    text = N_("{url} did not do what was asked: {problem}")
    hints: tuple[str, ...] = (N_("Is it an Ollama server, or Modelyard? The address is OLLAMA_BASE_URL."),)


class OllamaConnectionError(OllamaServiceError):
    """The node cannot be reached, or the connection to it did not last until the answer was complete."""

    code = "ollama_connection_error"
    text = N_("{url} cannot be reached: {problem}")
    hints: tuple[str, ...] = (N_("Is the server running? The address is OLLAMA_BASE_URL."),)


class OllamaModelNotFoundError(OllamaServiceError):
    """The node does not have the model."""

    code = "ollama_model_not_found"
    text = N_("{url} has no model named {model}.")
    hints: tuple[str, ...] = (
        N_("`list_models()` tells the names it has."),
        N_('`pull_model("{model}")` fetches it.'),
    )


class OllamaError(OllamaServiceError):
    """The node reported an error in the middle of its answer, or a lack of memory."""

    code = "ollama_error"
    text = N_("{problem}")
    hints: tuple[str, ...] = (N_("The node's own log says more."),)


class TimeoutWithDiagnosis(OllamaServiceError):
    """The answer did not come in time; the text is the whole diagnosis. `fields` has the verdict with its evidence."""

    code = "timeout_diagnosed"
    text = N_("{url} did not answer in time.")
    hints: tuple[str, ...] = ()

    def __init__(
        self,
        text: str | None = None,
        *,
        sentences: Sequence[Sentence] = (),
        hints: Sequence[str] = (),
        **fields: object,
    ) -> None:
        super().__init__(text, hints=hints)
        self.fields = fields
        self.sentences = tuple(sentences)

    def __str__(self) -> str:
        return "; ".join(fill(template, values) for template, values in self.sentences) or super().__str__()
