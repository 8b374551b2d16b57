"""Seeds that once failed, and what they showed. They are run every time, whatever else is."""

from __future__ import annotations

REGRESSIONS = {
    71: "a model loaded for an urgent request was closed to that request by an older one, for ever",
    88: "the same, with several devices",
    7545: "a younger line took, again and again, what an older one waited for together with something more",
    60: "a load that broke for memory was tried again in the same way",
    46: "residents overtook for ever",
}
