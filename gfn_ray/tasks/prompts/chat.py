"""How a prompt is put to the model: messages by its own chat template, a text as it stands.

Owns the way from a prompt to token ids, and the tokens that end an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.models.tokenization import text_ids
from gfn_ray.rewards.functions.judge import Message, Prompt
from gfn_ray.trajectory import IntArray


@dataclass(frozen=True)
class Chat:
    """system: a message before each prompt; it makes a chat of a text."""

    tokenizer: Any
    system: str | None = None

    def is_chat(self, prompt: Prompt) -> bool:
        return self.system is not None or not isinstance(prompt, str)

    def text(self, prompt: Prompt, where: str) -> str:
        """What the model reads, the beginning of its own turn included. Raises UserError, which
        begins with `where`, for messages that the model has no way to read."""
        if not self.is_chat(prompt):
            assert isinstance(prompt, str)
            return prompt
        if not self.tokenizer.chat_template:
            raise UserError(
                f"{where}: the prompt is a chat, and the tokenizer of model.name has no chat "
                "template; give prompts as texts without task.system, or choose an instruct model"
            )
        return self._rendered(self._messages(prompt), where, add_generation_prompt=True)

    def ids(self, prompt: Prompt, where: str) -> IntArray:
        """The same as token ids; what a text begins with stands there once."""
        return text_ids(self.tokenizer, self.text(prompt, where))

    def ends(self, vocab_size: int) -> IntArray:
        """Ids that end an answer, ascending: the end of text, and that of the model's turn."""
        found = {self.end_id(is_chat=False), self.end_id(is_chat=True)} - {None}
        ids = [token for token in found if token is not None and token < vocab_size]
        if not ids:
            raise UserError(
                "the tokenizer of model.name has no end-of-sequence token, so z could never end; "
                "choose another model"
            )
        return np.array(sorted(ids), dtype=np.int32)

    def end_id(self, *, is_chat: bool) -> int | None:
        """The id that ends an answer to a chat, or to a text."""
        eos = self.tokenizer.eos_token_id
        if is_chat and self.tokenizer.chat_template:
            turn: list[Message] = [{"role": "user", "content": "a"}]
            turn += [{"role": "assistant", "content": "gfn"}]
            try:
                after = self._rendered(turn, "").rpartition("gfn")[2]
            except UserError:  # a template with demands of its own
                return None if eos is None else int(eos)
            added = self.tokenizer.added_tokens_decoder.items()
            special = {token for token, entry in added if entry.special}
            special.update(self.tokenizer.all_special_ids)
            ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
            eos = next((token for token in ids if token in special), eos)
        return None if eos is None else int(eos)

    def _messages(self, prompt: Prompt) -> list[Message]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self.system is None:
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def _rendered(self, messages: list[Message], where: str, **options: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # a template raises what its author chose
            raise UserError(
                f"{where}: the chat template of model.name takes no such messages: {error}"
            ) from None
        return text
