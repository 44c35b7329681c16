"""Tools that write part of z: how the policy calls them, and their answers as tokens.

Turns a call in z into the tokens that the tool appends. The sampling engine runs the loop; the
support decides where an answer is legal. Independent of torch and vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gfn_ray.errors import RunFailed, UserError
from gfn_ray.models.tokenization import continuation_ids
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray


class ToolError(Exception):
    """A call that a tool cannot answer; the message says why."""


class Tool(Protocol):
    """Something that reads z and writes what comes next, such as a calculator.

    trigger: text that calls the tool wherever the policy writes it; some token must end with all of
    it. error_text: appended to z if the tool cannot answer.
    """

    @property
    def trigger(self) -> str: ...

    @property
    def error_text(self) -> str: ...

    def answer(self, text: str) -> str:
        """Returns what follows `text`, which is z so far and ends with the trigger.

        Must be deterministic. Raises ToolError for a call that it cannot answer.
        """
        ...


@dataclass(frozen=True)
class ToolAnswer:
    """token_ids: what the tool appends to z. failed: whether that is its error_text."""

    token_ids: IntArray
    failed: bool


class ToolLoop:
    """A tool that reads and writes the model's tokens. tokenizer: of transformers."""

    def __init__(self, tool: Tool, tokenizer: Any, support: Support) -> None:
        self._tool = tool
        self._tokenizer = tokenizer
        self._support = support
        legal = np.flatnonzero(support.masks.any(axis=0))
        content = np.setdiff1d(legal, support.stop_ids)
        self.trigger_ids: list[int] = [
            token for token in content.tolist() if tokenizer.decode([token]).endswith(tool.trigger)
        ]
        """Tokens of the support that call the tool."""
        if not self.trigger_ids:
            raise UserError(
                f"no token that z may contain ends with {tool.trigger!r}, which calls the "
                f"{self._name}: the tokenizer of model.name cannot serve this task"
            )

    def answer_ids(self, prompt_ids: IntArray, z_ids: IntArray) -> ToolAnswer:
        """Returns the tool's tokens after a z [T] that ends in a trigger.

        Raises RunFailed if the support does not allow them.
        """
        # Decoded together with the prompt, because z alone may lose its leading space.
        prompt = self._decode(prompt_ids)
        whole = self._decode(np.concatenate([prompt_ids, z_ids]))
        text = whole[len(prompt) :]
        failed = False
        try:
            answer = self._tool.answer(text)
        except ToolError:
            answer, failed = self._tool.error_text, True
        try:
            tokens = continuation_ids(self._tokenizer, whole, answer)
        except ValueError as error:
            raise RunFailed(
                f"the {self._name} answered {answer!r} after {text!r}: {error}"
            ) from error
        if not self._admitted(np.concatenate([z_ids, tokens]), len(z_ids)):
            raise RunFailed(
                f"the {self._name} answered {answer!r} after {text!r}, but the support of this "
                "task does not allow that"
            )
        return ToolAnswer(tokens, failed)

    def contains(self, prompt_ids: IntArray, z_ids: IntArray) -> bool:
        """Whether policy and tool together can write exactly this z after the prompt, and stop."""

        def answer(before: IntArray) -> IntArray:
            try:
                return self.answer_ids(prompt_ids, before).token_ids
            except RunFailed:  # the support does not allow the answer
                return np.zeros(0, dtype=np.int32)

        return self._support.contains(z_ids, answer)

    @property
    def _name(self) -> str:
        return type(self._tool).__name__

    def _decode(self, token_ids: IntArray) -> str:
        decoded: str = self._tokenizer.decode(
            token_ids.tolist(), clean_up_tokenization_spaces=False
        )
        return decoded

    def _admitted(self, z_ids: IntArray, called: int) -> bool:
        """Whether all tokens from `called` on are a tool's, and the policy can continue."""
        try:
            by_tool = self._support.tool_mask(z_ids)
            row = self._support.mask_rows(z_ids)[-1]
        except ValueError:
            return False
        return bool(by_tool[called:].all() and self._support.masks[row].any())
