"""Keeps vLLM's attention on CPUs from using a processor's tile registers (Intel AMX).

With them a prompt is read by another sum than an answer is written by: an answer that goes on elsewhere, after a
failure or a preemption, may turn at a near tie, where the same machine without them goes on exactly. And vLLM 0.32
takes them without asking Linux (arch_prctl ARCH_REQ_XCOMP_PERM), which ends a process that did not ask, at its first
short prompt.
vLLM calls this in each of its processes, by the entry point in the `.dist-info` beside it.
"""


def hide_tiles() -> None:
    """Let vLLM believe that there are no tile registers."""
    import torch  # noqa: PLC0415 - of the engine's environment, which imports it anyway

    torch.cpu._is_amx_tile_supported = lambda: False
